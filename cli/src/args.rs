//! What the command line understands.

use clap::{Args, Parser, Subcommand, ValueEnum};
use nearstone::vfs::Residency;
use nearstone::{Codes, Durability, KeyType, Metric, OnCollision, Profile, Schema, TakeFiles};
use std::path::PathBuf;
use std::time::Duration;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 input/output or other failure, 2 bad arguments or input, 3 not found, \
4 exists already, 5 not a store or a newer version, 6 damaged, 7 busy (locked or stalled), 8 read-only, 9 disk full.";

const EXAMPLES: &str = "Examples:
  nearstone create notes.near docs --dim 384 --metric cosine
  nearstone import notes.near docs vectors.npy --payloads payloads.jsonl.gz
  nearstone search notes.near docs --key 17 --limit 5 --payload
  nearstone bench recall notes.near docs --queries queries.npy --limit 10 --ef 16,32,64";

/// An embedded, durable vector store.
#[derive(Parser, Debug)]
#[command(name = "nearstone", version, about, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct Cli {
    /// Print results as JSON with stable names, errors as JSON on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make a collection (and the store, if there is none)
    Create(CreateArgs),
    /// Put the rows of a file into a collection
    Import(ImportArgs),
    /// Build sealed segments from a file, without a store
    Build(BuildArgs),
    /// Bring built segments into a collection
    Attach(AttachArgs),
    /// Find the rows nearest to a vector
    Search(SearchArgs),
    /// Show rows by key
    Get(GetArgs),
    /// Remove rows by key
    Delete(DeleteArgs),
    /// Show numbers about a store: rows, bytes by section, log, segments
    Stats(StoreArgs),
    /// Read everything and check it
    Verify(StoreArgs),
    /// Seal what is only in the log
    Flush(StoreArgs),
    /// Merge each collection's segments into one without dead rows
    Compact(StoreArgs),
    /// Build a collection anew with other parameters
    Rebuild(RebuildArgs),
    /// Copy a store into a new folder
    Backup(BackupArgs),
    /// Bring every readable row of a damaged store into a new one, and list what could not be read
    Salvage(SalvageArgs),
    /// Write the rows of a collection to a file
    Export(ExportArgs),
    /// Index a real corpus, kill the process half way, recover, search, delete, compact
    Demo(DemoArgs),
    /// Measure
    #[command(subcommand)]
    Bench(BenchCommand),
}

#[derive(Subcommand, Debug)]
pub(crate) enum BenchCommand {
    /// Recall and latency of searches over a sweep of beam widths
    Recall(RecallArgs),
}

#[derive(Clone, Copy, ValueEnum, Debug)]
pub(crate) enum MetricArg {
    /// 1 - cos
    Cosine,
    /// Squared Euclidean distance
    L2,
    /// Negated inner product
    Ip,
}

impl MetricArg {
    pub(crate) fn metric(self) -> Metric {
        match self {
            MetricArg::Cosine => Metric::Cosine,
            MetricArg::L2 => Metric::L2,
            MetricArg::Ip => Metric::InnerProduct,
        }
    }
}

#[derive(Clone, Copy, ValueEnum, Debug)]
pub(crate) enum KeysArg {
    /// Unsigned 64-bit integers
    U64,
    /// Strings of 1 to 512 bytes
    Str,
}

impl KeysArg {
    pub(crate) fn key_type(self) -> KeyType {
        match self {
            KeysArg::U64 => KeyType::U64,
            KeysArg::Str => KeyType::Str,
        }
    }
}

#[derive(Clone, Copy, ValueEnum, Debug)]
pub(crate) enum ProfileArg {
    /// As it suits the rows
    Auto,
    /// The fastest searches
    Speed,
    /// Little memory: codes and links in memory, vectors read from the file
    Memory,
}

impl ProfileArg {
    pub(crate) fn profile(self) -> Profile {
        match self {
            ProfileArg::Auto => Profile::Auto,
            ProfileArg::Speed => Profile::Speed,
            ProfileArg::Memory => Profile::Memory,
        }
    }
}

#[derive(Clone, Copy, ValueEnum, Debug)]
pub(crate) enum CodesArg {
    /// One byte per number
    Sq8,
    /// Half a byte per number
    Sq4,
    /// One bit per number
    #[value(name = "rabitq1")]
    RaBitQ1,
    /// Two bits per number
    #[value(name = "rabitq2")]
    RaBitQ2,
    /// Half a byte per number, whatever their spread
    #[value(name = "rabitq4")]
    RaBitQ4,
    /// One byte per number, whatever their spread
    #[value(name = "rabitq8")]
    RaBitQ8,
    /// One byte for four numbers, by codebooks
    Pq4,
    /// One byte for eight numbers, by codebooks
    Pq8,
    /// One byte for 16 numbers, by codebooks
    Pq16,
}

impl CodesArg {
    pub(crate) fn codes(self) -> Codes {
        match self {
            CodesArg::Sq8 => Codes::Sq8,
            CodesArg::Sq4 => Codes::Sq4,
            CodesArg::RaBitQ1 => Codes::RaBitQ1,
            CodesArg::RaBitQ2 => Codes::RaBitQ2,
            CodesArg::RaBitQ4 => Codes::RaBitQ4,
            CodesArg::RaBitQ8 => Codes::RaBitQ8,
            CodesArg::Pq4 => Codes::Pq4,
            CodesArg::Pq8 => Codes::Pq8,
            CodesArg::Pq16 => Codes::Pq16,
        }
    }
}

#[derive(Clone, Copy, ValueEnum, Debug)]
pub(crate) enum ResidencyArg {
    /// Pages of the file come when they are touched
    Mapped,
    /// What searches touch is read ahead
    Warm,
    /// What searches touch is copied into memory
    Pinned,
    /// Everything is read into memory
    Heap,
}

impl ResidencyArg {
    pub(crate) fn residency(self) -> Residency {
        match self {
            ResidencyArg::Mapped => Residency::Mapped,
            ResidencyArg::Warm => Residency::Warm,
            ResidencyArg::Pinned => Residency::Pinned,
            ResidencyArg::Heap => Residency::Heap,
        }
    }
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  nearstone create notes.near docs --dim 384 --metric cosine --keys str")]
pub(crate) struct CreateArgs {
    /// The store's folder
    pub(crate) store: PathBuf,
    /// The collection's name
    pub(crate) collection: String,
    /// Numbers per vector, 1 to 65536
    #[arg(long)]
    pub(crate) dim: usize,
    /// The type of the keys
    #[arg(long, value_enum, default_value = "u64")]
    pub(crate) keys: KeysArg,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
}

/// What a schema says beside dimension and keys.
#[derive(Args, Debug)]
pub(crate) struct ShapeArgs {
    /// The distance
    #[arg(long, value_enum)]
    pub(crate) metric: MetricArg,
    /// Links per row on the upper layers, 4 to 64; twice as many on the ground layer
    #[arg(long, default_value_t = 16)]
    pub(crate) m: usize,
    /// Beam width while linking
    #[arg(long, default_value_t = 200)]
    pub(crate) ef_construction: usize,
    /// What sealed segments are made for
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) profile: ProfileArg,
    /// The codes of sealed segments, on which searches with filters and those of lean collections measure
    #[arg(long, value_enum, default_value = "sq8")]
    pub(crate) codes: CodesArg,
}

impl ShapeArgs {
    pub(crate) fn schema(&self, dimension: usize, keys: KeysArg) -> Schema {
        Schema::new(dimension, self.metric.metric())
            .keys(keys.key_type())
            .m(self.m)
            .ef_construction(self.ef_construction)
            .profile(self.profile.profile())
            .codes(self.codes.codes())
    }
}

/// A file of rows.
#[derive(Args, Debug)]
pub(crate) struct InputArgs {
    /// .npy (f16, f32, f64), .fvecs, .bvecs, .jsonl or .parquet, plain or .gz
    pub(crate) file: PathBuf,
    /// Keys: a text file with one per line, or an integer .npy; row numbers otherwise
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
    /// Payloads: JSON Lines, one object per row
    #[arg(long, value_name = "FILE")]
    pub(crate) payloads: Option<PathBuf>,
    /// The first row number that is used as a key
    #[arg(long, default_value_t = 0)]
    pub(crate) first_key: u64,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  nearstone import notes.near docs vectors.npy
  nearstone import notes.near docs rows.jsonl.gz
  nearstone import notes.near docs vectors.fvecs --keys keys.txt --payloads payloads.jsonl
  nearstone import notes.near docs vectors.npy --bulk

JSON Lines rows are {\"key\": ..., \"vector\": [...], \"payload\": {...}}; only the vector is needed.")]
pub(crate) struct ImportArgs {
    /// The store's folder
    pub(crate) store: PathBuf,
    /// The collection's name
    pub(crate) collection: String,
    #[command(flatten)]
    pub(crate) input: InputArgs,
    /// Rows per batch; each batch is durable before the next begins
    #[arg(long, default_value_t = 1000)]
    pub(crate) batch: usize,
    /// What an acknowledged batch survives: sync (power loss), os (a killed process), or an interval such as 100ms
    #[arg(long, default_value = "sync", value_parser = parse_durability)]
    pub(crate) durability: Durability,
    /// Leave the rows in the log instead of sealing them at the end
    #[arg(long)]
    pub(crate) no_flush: bool,
    /// Load all rows at once, past the log: faster, and nothing is there until everything is
    #[arg(long, conflicts_with_all = ["batch", "durability", "no_flush"])]
    pub(crate) bulk: bool,
    /// With --bulk: what becomes of rows whose keys are there already
    #[arg(long, value_enum, requires = "bulk", default_value_t = CollisionArg::Replace)]
    pub(crate) on_collision: CollisionArg,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  nearstone build built vectors.npy --metric cosine --payloads payloads.jsonl.gz
  nearstone attach notes.near docs built/*.seg --take move")]
pub(crate) struct BuildArgs {
    /// A missing or empty folder for the segments
    pub(crate) folder: PathBuf,
    #[command(flatten)]
    pub(crate) input: InputArgs,
    /// The type of the keys
    #[arg(long, value_enum, default_value = "u64")]
    pub(crate) key_type: KeysArg,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    /// Rows per segment, at most
    #[arg(long)]
    pub(crate) seal_rows: Option<u32>,
    /// Threads that link, 1024 at most; all cores otherwise
    #[arg(long)]
    pub(crate) threads: Option<usize>,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  nearstone attach notes.near docs built/*.seg
  nearstone attach notes.near docs built/*.seg --take move --on-collision refuse")]
pub(crate) struct AttachArgs {
    /// The store's folder
    pub(crate) store: PathBuf,
    /// The collection's name; its schema must be that of the files, whatever their profile and codes
    pub(crate) collection: String,
    /// Files that build has made
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// What becomes of rows whose keys are there already
    #[arg(long, value_enum, default_value_t = CollisionArg::Replace)]
    pub(crate) on_collision: CollisionArg,
    /// How files become the store's
    #[arg(long, value_enum, default_value_t = TakeArg::Copy)]
    pub(crate) take: TakeArg,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
pub(crate) enum TakeArg {
    /// They are copied
    Copy,
    /// They get a second name, where the file system has such
    Link,
    /// As link, and the old name goes
    Move,
}

impl TakeArg {
    pub(crate) fn how(self) -> TakeFiles {
        match self {
            TakeArg::Copy => TakeFiles::Copy,
            TakeArg::Link => TakeFiles::Link,
            TakeArg::Move => TakeFiles::Move,
        }
    }
}

#[derive(Clone, Copy, ValueEnum, Debug)]
pub(crate) enum CollisionArg {
    /// They take the place of what is there
    Replace,
    /// They are left out
    Keep,
    /// The import fails, and nothing has changed
    Refuse,
}

impl CollisionArg {
    pub(crate) fn policy(self) -> OnCollision {
        match self {
            CollisionArg::Replace => OnCollision::Replace,
            CollisionArg::Keep => OnCollision::Keep,
            CollisionArg::Refuse => OnCollision::Refuse,
        }
    }
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  nearstone search notes.near docs --vector '[0.1, 0.7, 0.2]' --limit 5
  nearstone search notes.near docs --key intro --payload
  nearstone search notes.near docs --file queries.npy --row 3 --exact")]
pub(crate) struct SearchArgs {
    /// The store's folder
    pub(crate) store: PathBuf,
    /// The collection's name
    pub(crate) collection: String,
    #[command(flatten)]
    pub(crate) query: QueryArgs,
    /// Which row of --file is the query
    #[arg(long, default_value_t = 0, requires = "file")]
    pub(crate) row: u64,
    /// Hits wanted
    #[arg(long, short = 'k', default_value_t = 10)]
    pub(crate) limit: usize,
    /// Beam width
    #[arg(long, default_value_t = 64)]
    pub(crate) ef: usize,
    /// Compare with every row instead of walking the graph
    #[arg(long)]
    pub(crate) exact: bool,
    /// Show payloads
    #[arg(long)]
    pub(crate) payload: bool,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct QueryArgs {
    /// The query as a JSON array
    #[arg(long, value_name = "JSON")]
    pub(crate) vector: Option<String>,
    /// The vector stored under this key
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// A file of vectors
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// The store's folder
    pub(crate) store: PathBuf,
    /// The collection's name
    pub(crate) collection: String,
    /// The keys
    #[arg(required = true)]
    pub(crate) keys: Vec<String>,
    /// Show vectors too
    #[arg(long)]
    pub(crate) vector: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// The store's folder
    pub(crate) store: PathBuf,
    /// The collection's name
    pub(crate) collection: String,
    /// The keys; they are deleted in one atomic batch
    #[arg(required = true)]
    pub(crate) keys: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct StoreArgs {
    /// The store's folder
    pub(crate) store: PathBuf,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  nearstone rebuild notes.near docs --m 24 --ef-construction 300
  nearstone rebuild notes.near docs

What is not given stays as it is; without any of them, the graphs are linked anew by the same parameters.")]
pub(crate) struct RebuildArgs {
    /// The store's folder
    pub(crate) store: PathBuf,
    /// The collection's name
    pub(crate) collection: String,
    /// Links per row on the upper layers, 4 to 64; twice as many on the ground layer
    #[arg(long)]
    pub(crate) m: Option<usize>,
    /// Beam width while linking
    #[arg(long)]
    pub(crate) ef_construction: Option<usize>,
    /// What sealed segments are made for
    #[arg(long, value_enum)]
    pub(crate) profile: Option<ProfileArg>,
    /// The codes of sealed segments
    #[arg(long, value_enum)]
    pub(crate) codes: Option<CodesArg>,
}

#[derive(Args, Debug)]
pub(crate) struct BackupArgs {
    /// The store's folder
    pub(crate) store: PathBuf,
    /// A missing or empty folder
    pub(crate) into: PathBuf,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  nearstone salvage damaged.near --into rescued.near
  nearstone salvage damaged.near --into rescued.near --json")]
pub(crate) struct SalvageArgs {
    /// The damaged store's folder; nothing in it is changed
    pub(crate) store: PathBuf,
    /// A missing or empty folder, which becomes a store
    #[arg(long, value_name = "FOLDER")]
    pub(crate) into: PathBuf,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  nearstone export notes.near docs rows.jsonl.gz
  nearstone export notes.near docs vectors.npy --keys keys.txt --payloads payloads.jsonl")]
pub(crate) struct ExportArgs {
    /// The store's folder
    pub(crate) store: PathBuf,
    /// The collection's name
    pub(crate) collection: String,
    /// .jsonl, .npy, .fvecs or .parquet, and .jsonl.gz
    pub(crate) file: PathBuf,
    /// Write the keys here, one per line (for formats that hold vectors only)
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
    /// Write the payloads here, as JSON Lines (for formats that hold vectors only)
    #[arg(long, value_name = "FILE")]
    pub(crate) payloads: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = "The demo embeds text with a small hashing embedder: lexical, not a language model.")]
pub(crate) struct DemoArgs {
    /// A folder of text to index instead of this project's sources and their dependencies
    pub(crate) folder: Option<PathBuf>,
    /// Passages to index
    #[arg(long, default_value_t = 20_500)]
    pub(crate) passages: usize,
    /// Keep the store in this folder instead of a temporary one
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// The ingesting child: reads vectors and payloads from this folder
    #[arg(long, hide = true, value_name = "DIR")]
    pub(crate) child: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:
  nearstone bench recall notes.near docs --queries queries.npy --truth neighbours.npy --limit 10 --ef 16,32,64,128")]
pub(crate) struct RecallArgs {
    /// The store's folder
    pub(crate) store: PathBuf,
    /// The collection's name
    pub(crate) collection: String,
    /// Query vectors, any format that import reads
    #[arg(long, value_name = "FILE")]
    pub(crate) queries: PathBuf,
    /// Keys of the true neighbours, nearest first: an integer .npy of one row per query; exact search otherwise
    #[arg(long, value_name = "FILE")]
    pub(crate) truth: Option<PathBuf>,
    /// Neighbours per query
    #[arg(long, short = 'k', default_value_t = 10)]
    pub(crate) limit: usize,
    /// Beam widths
    #[arg(long, value_delimiter = ',', default_value = "16,32,64,128")]
    pub(crate) ef: Vec<usize>,
    /// How the segments are held while it is measured
    #[arg(long, value_enum, default_value = "mapped")]
    pub(crate) residency: ResidencyArg,
}

fn parse_durability(text: &str) -> Result<Durability, String> {
    match text {
        "sync" => return Ok(Durability::Sync),
        "os" => return Ok(Durability::Os),
        _ => {}
    }
    let (number, unit): (&str, fn(u64) -> Duration) = match (text.strip_suffix("ms"), text.strip_suffix('s'))
    {
        (Some(number), _) => (number, Duration::from_millis),
        (None, Some(number)) => (number, Duration::from_secs),
        _ => return Err("expected sync, os, or an interval such as 100ms or 1s".to_owned()),
    };
    match number.parse() {
        Ok(0) | Err(_) => {
            Err(format!("{text:?} is no interval: it must be a whole number above 0 and ms or s"))
        }
        Ok(number) => Ok(Durability::Interval(unit(number))),
    }
}
