//! Text to vectors without a model: a hashing embedder.
//!
//! It is lexical. Two texts are near when they share words, identifiers or parts of words; it knows no synonyms and no
//! meaning, and is no language model. It is here so that a demonstration runs on any text, at once, without a download.
//!
//! 1. A text is cut into words. `nextBlock`, `next_block` and `NextBlock` give `next`, `block`, and once more the
//!    whole, `nextblock`.
//! 2. The features are the words, the whole identifiers, and the pieces of 3 and 4 characters of each word with its
//!    ends marked, so that `compact` and `compaction` have most features in common.
//! 3. A feature that occurs n times weighs `1 + ln n`, times a factor of its sort, times its rarity if
//!    [`Embedder::fit`] has seen the corpus.
//! 4. Each feature is hashed to two of the dimensions, with signs, and its weight added there (Weinberger et al.,
//!    "Feature hashing for large scale multitask learning", ICML 2009): signs make collisions cancel on average.
//! 5. The sum is scaled to length 1. A text without words gets the first axis, never the zero vector.
//!
//! The same text and the same fit give the same vector on every run. It takes some ten microseconds per kilobyte.

use crate::generate::normalise;
use crate::random::mix;

/// What the embedder is, in one sentence to print.
pub const DESCRIPTION: &str = "a lexical hashing embedder: texts are near when they share words and parts of words; it is \
                               not a language model and knows no synonyms";

/// The dimension unless another is asked for.
pub const DIMENSION_DEFAULT: usize = 256;

/// Counters for rarity: features share one when their hashes do, which at this number hardly matters.
const COUNTERS: usize = 1 << 18;

/// Turns texts into vectors of length 1.
///
/// ```
/// use nearstone_datasets::Embedder;
///
/// let embedder = Embedder::new(256);
/// let near = |a: &str, b: &str| -> f32 {
///     embedder.embed(a).iter().zip(embedder.embed(b)).map(|(a, b)| a * b).sum()
/// };
/// assert!(near("opening a log file", "the log files are opened") > near("opening a log file", "a bowl of soup"));
/// ```
#[derive(Clone, Debug)]
pub struct Embedder {
    dimension: usize,
    /// Rarity by counter; empty before a fit.
    rarity: Vec<f32>,
}

impl Default for Embedder {
    fn default() -> Embedder {
        Embedder::new(DIMENSION_DEFAULT)
    }
}

impl Embedder {
    /// An embedder into `dimension` numbers (0 counts as 1). Fewer than about 100 mix everything up.
    pub fn new(dimension: usize) -> Embedder {
        Embedder { dimension: dimension.max(1), rarity: Vec::new() }
    }

    /// Numbers per vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Learns from a corpus which features are rare, and so say more (the inverse document frequency of BM25;
    /// Robertson and Zaragoza, 2009). Replaces an earlier fit. Vectors of before and after do not belong together.
    pub fn fit<S: AsRef<str>>(&mut self, texts: impl IntoIterator<Item = S>) {
        let mut seen = vec![0u32; COUNTERS];
        let (mut features, mut counters, mut count) = (Features::default(), Vec::new(), 0u32);
        for text in texts {
            features.collect(text.as_ref());
            counters.clear();
            counters.extend(features.hashes.iter().map(|feature| counter(feature.hash)));
            counters.sort_unstable();
            counters.dedup();
            for counter in &counters {
                seen[*counter] += 1;
            }
            count += 1;
        }
        let rarity = |seen: u32| {
            let (count, seen) = (f64::from(count), f64::from(seen));
            (1.0 + (count - seen + 0.5) / (seen + 0.5)).ln() as f32
        };
        self.rarity = if count == 0 { Vec::new() } else { seen.into_iter().map(rarity).collect() };
    }

    /// The vector of a text: finite, of length 1.
    pub fn embed(&self, text: &str) -> Vec<f32> {
        let mut features = Features::default();
        features.collect(text);
        features.hashes.sort_unstable_by_key(|feature| feature.hash);
        let mut vector = vec![0.0f32; self.dimension];
        for same in features.hashes.chunk_by(|a, b| a.hash == b.hash) {
            let Some(Feature { hash, weight }) = same.first().copied() else { continue };
            let rarity = self.rarity.get(counter(hash)).copied().unwrap_or(1.0);
            let weight = weight * rarity * (1.0 + (same.len() as f32).ln());
            for half in [hash, mix(hash ^ 0x5bd1_e995)] {
                let place = (u128::from(half) * self.dimension as u128) >> 64;
                // The place is made of the high bits, so the lowest is free to be the sign.
                vector[place as usize] += if half & 1 == 0 { weight } else { -weight };
            }
        }
        normalise(&mut vector);
        vector
    }
}

fn counter(hash: u64) -> usize {
    (hash >> 8) as usize % COUNTERS
}

#[derive(Clone, Copy)]
struct Feature {
    hash: u64,
    weight: f32,
}

/// Weights by sort: a word counts as much as some of its pieces together.
const WORD: (u64, f32) = (1, 1.0);
const PIECE: (u64, f32) = (2, 0.3);
const WHOLE: (u64, f32) = (3, 1.0);

/// The features of one text, and the buffers for finding them.
#[derive(Default)]
struct Features {
    hashes: Vec<Feature>,
    word: Vec<char>,
    whole: Vec<char>,
    words: usize,
}

impl Features {
    fn collect(&mut self, text: &str) {
        self.hashes.clear();
        let mut before = ' ';
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c.is_alphanumeric() {
                // aB begins a word at B; ABc begins one at B.
                let next_lower = chars.peek().is_some_and(|next| next.is_lowercase());
                if c.is_uppercase() && (before.is_lowercase() || (before.is_uppercase() && next_lower)) {
                    self.end_word();
                }
                self.word.extend(c.to_lowercase());
            } else {
                self.end_word();
                if c != '_' {
                    self.end_whole();
                }
            }
            before = c;
        }
        self.end_word();
        self.end_whole();
    }

    fn end_word(&mut self) {
        if self.word.is_empty() {
            return;
        }
        self.whole.extend(&self.word);
        self.words += 1;
        self.hashes.push(feature(WORD, &self.word));
        if self.word.len() >= 3 {
            self.word.insert(0, '\u{2}');
            self.word.push('\u{3}');
            for size in [3, 4] {
                for piece in self.word.windows(size) {
                    self.hashes.push(feature(PIECE, piece));
                }
            }
        }
        self.word.clear();
    }

    fn end_whole(&mut self) {
        if self.words > 1 {
            self.hashes.push(feature(WHOLE, &self.whole));
        }
        self.words = 0;
        self.whole.clear();
    }
}

fn feature((sort, weight): (u64, f32), chars: &[char]) -> Feature {
    // FNV-1a over characters, then a mix: FNV alone leaves the high bits of short keys poor.
    let hash = chars.iter().fold(0xcbf2_9ce4_8422_2325 ^ sort, |hash, c| {
        (hash ^ u64::from(u32::from(*c))).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Feature { hash: mix(hash), weight }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    fn features(text: &str) -> Vec<u64> {
        let mut features = Features::default();
        features.collect(text);
        let mut hashes: Vec<u64> = features.hashes.iter().map(|feature| feature.hash).collect();
        hashes.sort_unstable();
        hashes
    }

    #[test]
    fn identifiers_are_the_same_in_every_spelling() {
        assert_eq!(features("nextBlock"), features("next_block"));
        assert_eq!(features("HTTPServer"), features("http_server"));
        assert_ne!(features("next block"), features("next_block"));
    }

    const PASSAGES: [&str; 5] = [
        "The write-ahead log is synced before a write is acknowledged, so that a crash loses nothing.",
        "A graph of neighbours is searched greedily from an entry point, keeping a beam of candidates.",
        "Boil the potatoes in salted water, mash them with butter and serve them with fish.",
        "Each segment is immutable once sealed; a compaction merges segments and drops dead rows.",
        "The river rises in the mountains and reaches the sea after three hundred miles.",
    ];

    #[test]
    fn a_passage_is_nearest_to_itself_and_a_paraphrase_beats_the_unrelated() {
        let mut embedder = Embedder::default();
        for fitted in [false, true] {
            if fitted {
                embedder.fit(PASSAGES);
            }
            let vectors = PASSAGES.map(|passage| embedder.embed(passage));
            let nearest = |text: &str| {
                let query = embedder.embed(text);
                (0..5).max_by(|a, b| dot(&query, &vectors[*a]).total_cmp(&dot(&query, &vectors[*b]))).unwrap()
            };
            for (number, passage) in PASSAGES.iter().enumerate() {
                assert_eq!(nearest(passage), number);
            }
            assert_eq!(nearest("no acknowledged write is lost in a crash: the log was synced"), 0);
            assert_eq!(nearest("greedy beam search over a neighbour graph"), 1);
            assert_eq!(nearest("mashed potato with butter"), 2);
            assert_eq!(nearest("compacting merges sealed segments"), 3);
        }
    }

    #[test]
    fn every_text_has_a_vector_of_length_one() {
        let embedder = Embedder::new(64);
        for text in ["", " \n\t", "!?", "a", "ß", "日本語の文章", "\u{0}\u{1}", "İ"] {
            let vector = embedder.embed(text);
            assert!((dot(&vector, &vector) - 1.0).abs() < 1e-5, "{text:?}");
        }
        assert_eq!(embedder.embed("")[0], 1.0);
        assert!(Embedder::new(1).embed("some words of text")[0].abs() == 1.0);
    }

    #[test]
    fn vectors_stay_what_they_were() {
        // A changed hash would silently part new vectors from stored ones.
        let golden =
            [0.15389676, 0.0, 0.15389676, -0.30779353, -0.20519567, -0.30779353, -0.35909238, 0.76948375];
        for (found, golden) in Embedder::new(8).embed("Nearstone").into_iter().zip(golden) {
            assert!((found - golden).abs() < 1e-6, "{found} is not {golden}");
        }
    }

    #[test]
    fn a_demonstration_is_embedded_in_seconds() {
        let passage = PASSAGES.join(" ") + &PASSAGES[..2].join(" ");
        let begin = std::time::Instant::now();
        let embedder = Embedder::default();
        let total: f32 = (0..4000).map(|_| embedder.embed(&passage)[0]).sum();
        assert!(total.is_finite());
        // 20,000 in a few seconds, with room for a busy machine.
        assert!(begin.elapsed().as_secs_f64() < 4.0, "{:?}", begin.elapsed());
    }
}
