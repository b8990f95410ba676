//! What sealed segments are walked on where they have no inline rows, or rows are filtered: codes, by name.

use crate::error::{Error, Result};

/// The codes of a collection's sealed segments: small stand-ins for vectors, on which searches measure until the best rows are
/// measured on their vectors. See [`Schema::codes`](crate::Schema::codes).
///
/// They matter most to segments without inline rows ([`Profile::Memory`](crate::Profile::Memory)), where every search walks on
/// them, and of the others to searches with a filter. Fewer bits take less memory, and more rows are measured on their
/// vectors to make up for what the codes don't tell.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Codes {
    /// One byte per number. Bytes per row: the dimension and 16, rounded up to 64.
    #[default]
    Sq8,
    /// Half a byte per number: what lies far out is cut off. Bytes per row: half the dimension and 16, rounded up to 64.
    Sq4,
    /// RaBitQ, one bit per number: next to no memory, and most of what a walk finds is measured on vectors. Bytes per row: an
    /// eighth of the dimension (a multiple of 32) and 16, rounded up to 64.
    RaBitQ1,
    /// RaBitQ, two bits per number. Bytes per row: a quarter of the dimension and 16, rounded up to 64.
    RaBitQ2,
    /// RaBitQ, four bits per number: as large as [`Codes::Sq4`], and as good for rows whose numbers differ much in spread.
    RaBitQ4,
    /// RaBitQ, eight bits per number: as large as [`Codes::Sq8`], for rows of which a few numbers are far larger than the others.
    RaBitQ8,
    /// Product quantization, four numbers a byte. As large as [`Codes::RaBitQ2`]: a tenth fewer vectors are read, and a search takes
    /// two fifths more of the processor, for a little less recall. Each segment has codebooks of 1 KB per dimension. Bytes per row: a quarter of the dimension (a multiple of 32)
    /// and 16, rounded up to 64.
    Pq4,
    /// Product quantization, eight numbers a byte: as large as [`Codes::RaBitQ1`], with as much recall for a little more time.
    /// Codebooks as of [`Codes::Pq4`].
    Pq8,
    /// Product quantization, 16 numbers a byte, of which a walk sees little: two to four times as many vectors are read as with
    /// [`Codes::Pq8`]. Smaller than that from 416 dimensions on. Codebooks as of [`Codes::Pq4`].
    Pq16,
}

impl Codes {
    /// All there are.
    pub const ALL: [Codes; 9] = [
        Codes::Sq8,
        Codes::Sq4,
        Codes::RaBitQ1,
        Codes::RaBitQ2,
        Codes::RaBitQ4,
        Codes::RaBitQ8,
        Codes::Pq4,
        Codes::Pq8,
        Codes::Pq16,
    ];

    /// The word for it in messages, schemas and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Codes::Sq8 => "sq8",
            Codes::Sq4 => "sq4",
            Codes::RaBitQ1 => "rabitq1",
            Codes::RaBitQ2 => "rabitq2",
            Codes::RaBitQ4 => "rabitq4",
            Codes::RaBitQ8 => "rabitq8",
            Codes::Pq4 => "pq4",
            Codes::Pq8 => "pq8",
            Codes::Pq16 => "pq16",
        }
    }

    /// The inverse of [`Codes::name`].
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, with the names that there are.
    pub fn from_name(name: &str) -> Result<Codes> {
        Codes::ALL.into_iter().find(|codes| codes.name() == name).ok_or_else(|| {
            let names = Codes::ALL.map(Codes::name).join(", ");
            Error::invalid(format!("the codes are {name:?}: they must be one of {names}"))
        })
    }

    /// The number that stands for it in files.
    pub fn code(self) -> u8 {
        match self {
            Codes::Sq8 => 0,
            Codes::Sq4 => 1,
            Codes::RaBitQ1 => 2,
            Codes::RaBitQ2 => 3,
            Codes::RaBitQ4 => 4,
            Codes::RaBitQ8 => 5,
            Codes::Pq4 => 6,
            Codes::Pq8 => 7,
            Codes::Pq16 => 8,
        }
    }

    /// The inverse of [`Codes::code`].
    pub fn from_code(code: u8) -> Option<Codes> {
        Codes::ALL.into_iter().find(|codes| codes.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read_back_and_others_are_refused() {
        for codes in Codes::ALL {
            assert_eq!(Codes::from_name(codes.name()).unwrap(), codes);
            assert_eq!(Codes::from_code(codes.code()), Some(codes));
        }
        assert_eq!(Codes::from_code(Codes::ALL.len() as u8), None);
        assert_eq!(Codes::from_code(u8::MAX), None);
        let text = Codes::from_name("sq16").unwrap_err().to_string();
        assert!(text.contains("\"sq16\"") && text.contains("sq8, sq4"), "{text}");
    }
}
