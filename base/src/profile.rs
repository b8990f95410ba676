//! What the sealed segments of a collection are made for: speed, or little memory.

use crate::error::{Error, Result};

/// What a collection's sealed segments are made for. Each collection of a store has its own; see
/// [`Schema::profile`](crate::Schema::profile).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Profile {
    /// As it suits the rows.
    #[default]
    Auto,
    /// The fastest searches. Six bytes per number and some more for each row are touched by searches.
    Speed,
    /// Little memory. Searches touch the codes (one byte per number, or less: [`Codes`](crate::Codes)), the links and the
    /// key of each row; vectors are read from the file for the few rows of each search that are measured exactly. Slower
    /// than the others, more so where those reads go to a disk.
    Memory,
}

impl Profile {
    /// All there are.
    pub const ALL: [Profile; 3] = [Profile::Auto, Profile::Speed, Profile::Memory];

    /// The word for it in messages, schemas and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Auto => "auto",
            Profile::Speed => "speed",
            Profile::Memory => "memory",
        }
    }

    /// The inverse of [`Profile::name`].
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, with the names that there are.
    pub fn from_name(name: &str) -> Result<Profile> {
        Profile::ALL.into_iter().find(|profile| profile.name() == name).ok_or_else(|| {
            let names = Profile::ALL.map(Profile::name).join(", ");
            Error::invalid(format!("the profile is {name:?}: it must be one of {names}"))
        })
    }

    /// The number that stands for it in files.
    pub fn code(self) -> u8 {
        match self {
            Profile::Auto => 0,
            Profile::Speed => 1,
            Profile::Memory => 2,
        }
    }

    /// The inverse of [`Profile::code`].
    pub fn from_code(code: u8) -> Option<Profile> {
        Profile::ALL.into_iter().find(|profile| profile.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_are_read_back_and_others_are_refused() {
        for profile in Profile::ALL {
            assert_eq!(Profile::from_name(profile.name()).unwrap(), profile);
            assert_eq!(Profile::from_code(profile.code()), Some(profile));
        }
        assert_eq!(Profile::from_code(3), None);
        let text = Profile::from_name("fast").unwrap_err().to_string();
        assert!(text.contains("\"fast\"") && text.contains("auto, speed, memory"), "{text}");
    }
}
