//! The program as a script meets it: commands, JSON with stable names, exit codes, and bad input.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Place {
    folder: tempfile::TempDir,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }

    /// The exit code, the kind in the JSON error, and words of its text.
    #[track_caller]
    fn refused(&self, code: i32, kind: &str, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        let error: Value = serde_json::from_str(self.err.lines().last().unwrap_or("")).unwrap();
        assert_eq!(error["error"]["kind"], kind, "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "{:?} does not say {word:?}", self.err);
        }
    }
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn run(&self, args: &[&str]) -> Ran {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_nearstone"))
            .args(args)
            .current_dir(&self.folder)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
    }

    /// Runs with `--json`; must succeed.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> Value {
        let ran = self.json(args);
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.out, ran.err);
        ran.json()
    }

    fn json(&self, args: &[&str]) -> Ran {
        self.run(&[&["--json"], args].concat())
    }

    /// A store with ten rows under string keys.
    fn with_rows() -> Place {
        let place = Place::new();
        place.ok(&["create", "s", "docs", "--dim", "3", "--metric", "cosine", "--keys", "str"]);
        let mut lines = String::new();
        for i in 0..10 {
            lines += &format!("{{\"key\":\"k{i}\",\"vector\":[1,{i},0.5],\"payload\":{{\"n\":{i}}}}}\n");
        }
        place.write("rows.jsonl", &lines);
        let imported = place.ok(&["import", "s", "docs", "rows.jsonl"]);
        assert_eq!((&imported["rows"], &imported["collection_rows"]), (&10.into(), &10.into()));
        place
    }
}

#[test]
fn a_bulk_import_is_there_whole_or_not_at_all() {
    let place = Place::with_rows();
    let rows = |range: std::ops::Range<u32>| {
        let row = |i| format!("{{\"key\":\"k{i}\",\"vector\":[1,{i},0.5],\"payload\":{{\"bulk\":{i}}}}}\n");
        range.map(row).collect::<String>()
    };
    place.write("bulk.jsonl", &rows(8..20));
    let import =
        |policy: &str| place.json(&["import", "s", "docs", "bulk.jsonl", "--bulk", "--on-collision", policy]);
    import("refuse").refused(4, "already_exists", &["k8", "2 of the 12"]);
    assert_eq!(place.ok(&["stats", "s"])["collections"][0]["rows"], 10);
    let counts = |imported: &Value| {
        ["rows", "inserted", "replaced", "kept", "collection_rows"]
            .map(|name| imported[name].as_u64().unwrap())
    };
    assert_eq!(counts(&import("keep").json()), [12, 10, 0, 2, 20]);
    assert_eq!(place.ok(&["get", "s", "docs", "k9"])["rows"][0]["payload"]["n"], 9);
    let imported = place.ok(&["import", "s", "docs", "bulk.jsonl", "--bulk"]);
    assert_eq!(counts(&imported), [12, 0, 12, 0, 20]);
    let row = place.ok(&["get", "s", "docs", "k9"])["rows"][0].clone();
    assert_eq!((&row["payload"]["bulk"], &row["version"]), (&9.into(), &imported["lsn"]));
    assert_eq!(place.ok(&["search", "s", "docs", "--key", "k15", "--limit", "1"])["hits"][0]["key"], "k15");

    // A bad row anywhere: nothing of the file is there, and the row is named.
    place.write("bad.jsonl", &format!("{}{{\"key\":\"x\",\"vector\":[0,0,0]}}\n", rows(30..35)));
    place.json(&["import", "s", "docs", "bad.jsonl", "--bulk"]).refused(
        2,
        "invalid_argument",
        &["bad.jsonl", "row 5", "zero"],
    );
    place.write("twice.jsonl", &format!("{}{}", rows(30..35), rows(31..32)));
    let twice = place.json(&["import", "s", "docs", "twice.jsonl", "--bulk"]);
    twice.refused(2, "invalid_argument", &["k31", "given already", "row 5"]);
    assert_eq!(place.ok(&["verify", "s"])["rows"], 20);
    for more in [&["--batch", "5"][..], &["--no-flush"], &["--durability", "os"]] {
        let ran = place.run(&[&["import", "s", "docs", "bulk.jsonl", "--bulk"], more].concat());
        assert_eq!(ran.code, 2, "{more:?}: {}", ran.err);
    }
    assert_eq!(place.run(&["import", "s", "docs", "bulk.jsonl", "--on-collision", "keep"]).code, 2);
    assert!(place.run(&["import", "s", "docs", "bulk.jsonl", "--bulk"]).out.contains("imported 12 rows"));
}

#[test]
fn a_profile_is_chosen_by_name_and_shown_of_each_collection_and_segment() {
    let place = Place::new();
    let made = place.ok(&["create", "s", "lean", "--dim", "64", "--metric", "l2", "--profile", "memory"]);
    assert_eq!(made["profile"], "memory");
    assert_eq!(place.ok(&["create", "s", "fast", "--dim", "64", "--metric", "l2"])["profile"], "auto");
    let row = |i: usize| {
        let numbers: Vec<String> = (0..64).map(|place| ((i * 37 + place * 11) % 101).to_string()).collect();
        format!("{{\"vector\":[{}]}}\n", numbers.join(","))
    };
    place.write("rows.jsonl", &(0..1_100).map(row).collect::<String>());
    for collection in ["lean", "fast"] {
        place.ok(&["import", "s", collection, "rows.jsonl", "--bulk"]);
        let found = place.ok(&["search", "s", collection, "--key", "7", "--limit", "1"]);
        assert_eq!(
            (&found["hits"][0]["distance"], &place.ok(&["verify", "s"])["sound"]),
            (&0.0.into(), &true.into())
        );
    }
    let stats = place.ok(&["stats", "s"]);
    for (collection, profile, inline) in [(0, "auto", true), (1, "memory", false)] {
        let collection = &stats["collections"][collection];
        assert_eq!(collection["profile"], profile);
        let segment = &collection["segments"][0];
        assert_eq!((&segment["profile"], &segment["inline_rows"]), (&profile.into(), &inline.into()));
    }
    let shown = place.run(&["stats", "s"]).out;
    assert!(shown.contains("profile memory, codes sq8, walked on codes"), "{shown}");
    assert!(shown.contains("profile auto, codes sq8, walked on inline rows"), "{shown}");
    for residency in ["mapped", "warm", "pinned", "heap"] {
        let more = ["--queries", "rows.jsonl", "--ef", "64", "--residency", residency];
        let measured = place.ok(&[&["bench", "recall", "s", "lean"][..], &more].concat());
        assert_eq!(measured["rows"], 1_100, "{residency}: {measured}");
    }
    let wrong = place.run(&["create", "s", "more", "--dim", "3", "--metric", "l2", "--profile", "small"]);
    assert_eq!(wrong.code, 2);
    assert!(
        ["'small'", "auto", "speed", "memory"].iter().all(|word| wrong.err.contains(word)),
        "{}",
        wrong.err
    );
}

#[test]
fn codes_are_chosen_by_name_and_change_with_a_rebuild() {
    let place = Place::new();
    let row = |i: usize| {
        let numbers: Vec<String> = (0..64).map(|place| ((i * 37 + place * 11) % 101).to_string()).collect();
        format!("{{\"vector\":[{}]}}\n", numbers.join(","))
    };
    place.write("rows.jsonl", &(0..300).map(row).collect::<String>());
    let create = ["create", "s", "rows", "--dim", "64", "--metric", "l2", "--profile", "memory"];
    let made = place.ok(&[&create[..], &["--codes", "sq4"]].concat());
    assert_eq!(made["codes"], "sq4");
    place.ok(&["import", "s", "rows", "rows.jsonl", "--bulk"]);
    for codes in ["sq4", "sq8"] {
        if codes == "sq8" {
            place.ok(&["rebuild", "s", "rows", "--codes", codes]);
        }
        let found = place.ok(&["search", "s", "rows", "--key", "7", "--limit", "1"]);
        assert_eq!(found["hits"][0]["distance"], 0.0);
        assert_eq!(place.ok(&["verify", "s"])["sound"], true);
        let rows = &place.ok(&["stats", "s"])["collections"][0];
        assert_eq!((&rows["codes"], &rows["segments"][0]["codes"]), (&codes.into(), &codes.into()));
        // 64 numbers and 16 bytes of factors, in 64 bytes or in 128.
        let bytes = if codes == "sq4" { 64 } else { 128 };
        assert_eq!(rows["segments"][0]["sections"]["codes"], 300 * bytes);
        let shown = place.run(&["stats", "s"]).out;
        assert!(shown.contains(&format!("profile memory, codes {codes}, walked on codes")), "{shown}");
    }
    let wrong = place.run(&[&create[..], &["--codes", "sq16"]].concat());
    assert_eq!(wrong.code, 2);
    assert!(["'sq16'", "sq8", "sq4"].iter().all(|word| wrong.err.contains(word)), "{}", wrong.err);
}

#[test]
fn what_is_built_without_a_store_is_attached_to_one() {
    let place = Place::with_rows();
    let lines: String = (5..15)
        .map(|n| format!("{{\"key\":\"k{n}\",\"vector\":[9,{n},0.5],\"payload\":{{\"n\":{n}}}}}\n"))
        .collect();
    place.write("rows.jsonl", &lines);
    let how = ["--metric", "cosine", "--key-type", "str"];
    let build = |folder: &'static str, more: &[&'static str]| {
        [&["build", folder, "rows.jsonl"][..], &how, more].concat()
    };
    let built = place.ok(&build("built", &["--seal-rows", "5"]));
    assert_eq!((&built["rows"], &built["dim"]), (&10.into(), &3.into()));
    let files: Vec<&str> = built["files"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    assert_eq!(files.len(), 2);
    place.json(&build("built", &[])).refused(4, "already_exists", &["built"]);
    place.json(&build("other", &["--m", "3"])).refused(2, "invalid_argument", &["m is 3"]);
    place.json(&build("other", &["--threads", "0"])).refused(2, "invalid_argument", &["--threads is 0"]);
    let lean = place.ok(&build("lean", &["--profile", "memory"]));
    let into = ["attach", "other", "docs", lean["files"][0].as_str().unwrap()];
    place.ok(&["create", "other", "docs", "--dim", "3", "--metric", "cosine", "--keys", "str"]);
    assert_eq!(place.ok(&into)["inserted"], 10);
    let stats = place.ok(&["stats", "other"]);
    let docs = &stats["collections"][0];
    assert_eq!((&docs["profile"], &docs["segments"][0]["profile"]), (&"auto".into(), &"memory".into()));
    let attach = |more: &[&'static str]| -> Vec<String> {
        let words = ["attach", "s", "docs"].iter().chain(&files).chain(more);
        words.map(|word| (*word).to_owned()).collect()
    };
    let run = |more: &[&'static str]| {
        let words = attach(more);
        place.json(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    run(&["--on-collision", "refuse"]).refused(4, "already_exists", &["of built", "5 of the 10"]);
    place.json(&["attach", "s", "docs", "nothing.seg"]).refused(3, "not_found", &["nothing.seg"]);
    let words = attach(&["--on-collision", "keep", "--take", "move"]);
    let attached = place.ok(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((&attached["inserted"], &attached["kept"]), (&5.into(), &5.into()));
    assert_eq!(attached["collection_rows"], 15);
    assert_eq!(place.ok(&["get", "s", "docs", "k5", "k14", "--vector"])["rows"][1]["vector"][0], 9.0);
    assert_eq!(place.ok(&["verify", "s"])["rows"], 15);
    run(&[]).refused(3, "not_found", &["built"]);
}

#[test]
fn the_life_of_a_store() {
    let place = Place::with_rows();
    let found = place.ok(&["search", "s", "docs", "--key", "k3", "--limit", "2", "--payload"]);
    assert_eq!(found["hits"][0]["key"], "k3");
    assert_eq!(found["hits"][0]["distance"], 0.0);
    assert_eq!(found["hits"][0]["payload"]["n"], 3);
    let found = place.ok(&["search", "s", "docs", "--vector", "[1, 9, 0.5]", "-k", "1", "--exact"]);
    assert_eq!(found["hits"][0]["key"], "k9");

    let row = place.ok(&["get", "s", "docs", "k4", "--vector"]);
    assert_eq!(row["rows"][0]["vector"], serde_json::json!([1.0, 4.0, 0.5]));
    let deleted = place.ok(&["delete", "s", "docs", "k4", "k5", "nobody"]);
    assert_eq!((&deleted["deleted"], &deleted["missing"]), (&2.into(), &1.into()));
    place.json(&["get", "s", "docs", "k4"]).refused(3, "not_found", &["k4", "docs"]);

    place.ok(&["flush", "s"]);
    let compacted = place.ok(&["compact", "s"]);
    assert_eq!((&compacted["rows"], &compacted["segments"]), (&8.into(), &1.into()));
    let rebuilt = place.ok(&["rebuild", "s", "docs", "--m", "8", "--ef-construction", "50"]);
    assert_eq!((&rebuilt["rows"], &rebuilt["segments"]), (&8.into(), &1.into()));
    place.json(&["rebuild", "s", "docs", "--m", "3"]).refused(2, "invalid_argument", &["m is 3", "4..=64"]);
    place.json(&["rebuild", "s", "other"]).refused(3, "not_found", &["other"]);
    assert_eq!(place.ok(&["rebuild", "s", "docs"])["rows"], 8);
    let stats = place.ok(&["stats", "s"]);
    let docs = &stats["collections"][0];
    assert_eq!((&docs["m"], &docs["ef_construction"]), (&8.into(), &50.into()));
    assert_eq!((&docs["name"], &docs["rows"], &docs["dead_rows"]), (&"docs".into(), &8.into(), &0.into()));
    assert!(docs["segments"][0]["sections"]["codes"].as_u64().unwrap() > 0);
    let verified = place.ok(&["verify", "s"]);
    assert_eq!((&verified["sound"], &verified["rows"]), (&true.into(), &8.into()));

    place.ok(&["backup", "s", "copy"]);
    assert_eq!(place.ok(&["verify", "copy"])["rows"], 8);
    place.json(&["backup", "s", "copy"]).refused(4, "already_exists", &["copy"]);

    // Text says the same to people.
    for (args, word) in [
        (&["stats", "s"][..], "docs"),
        (&["search", "s", "docs", "--key", "k3"], "k3"),
        (&["verify", "s"], "sound"),
        (&["get", "s", "docs", "k3"], "\"n\":3"),
    ] {
        let ran = place.run(args);
        assert!(ran.code == 0 && ran.out.contains(word), "{args:?}: {}{}", ran.out, ran.err);
    }
}

#[test]
fn what_is_exported_comes_back_in_every_format() {
    let place = Place::with_rows();
    for (file, side) in [
        ("out.jsonl", false),
        ("out.jsonl.gz", false),
        ("out.parquet", false),
        ("out.npy", true),
        ("out.fvecs", true),
        ("out.fvecs.gz", true),
    ] {
        let collection = file.replace('.', "-");
        let sides = ["--keys", "keys.txt", "--payloads", "payloads.jsonl"];
        let with = |args: &[&'static str]| -> Vec<&'static str> {
            if side { [args, &sides].concat() } else { args.to_vec() }
        };
        let file: &'static str = Box::leak(file.to_owned().into_boxed_str());
        let target: &'static str = Box::leak(collection.into_boxed_str());
        assert_eq!(place.ok(&with(&["export", "s", "docs", file]))["rows"], 10);
        place.ok(&["create", "s", target, "--dim", "3", "--metric", "l2", "--keys", "str"]);
        assert_eq!(place.ok(&with(&["import", "s", target, file]))["rows"], 10, "{file}");
        let row = place.ok(&["get", "s", target, "k7", "--vector"]);
        assert_eq!(row["rows"][0]["vector"], serde_json::json!([1.0, 7.0, 0.5]), "{file}");
        assert_eq!(row["rows"][0]["payload"]["n"], 7, "{file}");
    }
}

#[test]
fn recall_is_measured_with_exact_search_as_truth() {
    let place = Place::with_rows();
    place.write("queries.jsonl", "{\"vector\":[1,2,3]}\n{\"vector\":[3,2,1]}\n");
    let measured = place.ok(&[
        "bench",
        "recall",
        "s",
        "docs",
        "--queries",
        "queries.jsonl",
        "--limit",
        "3",
        "--ef",
        "16,32",
    ]);
    let rows = measured["results"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!(row["recall"], 1.0);
        for name in ["ef", "qps", "mean_us", "p50_us", "p95_us", "p99_us"] {
            assert!(row[name].as_f64().unwrap() > 0.0, "{name} in {row}");
        }
    }
    place.json(&["bench", "recall", "s", "docs", "--queries", "queries.jsonl", "--limit", "0"]).refused(
        2,
        "invalid_argument",
        &["--limit"],
    );
}

#[test]
fn bad_input_is_refused_by_name_and_loses_nothing() {
    let place = Place::with_rows();
    let import = |file: &str| place.json(&["import", "s", "docs", file]);
    let refused = |file: &str, text: &str, words: &[&str]| {
        place.write(file, text);
        import(file).refused(2, "invalid_argument", words);
    };
    refused("dim.jsonl", "{\"key\":\"a\",\"vector\":[1,2]}\n", &["2 numbers", "3"]);
    refused("nan.jsonl", "{\"key\":\"a\",\"vector\":[1,NaN,2]}\n", &["nan.jsonl"]);
    refused("zero.jsonl", "{\"key\":\"a\",\"vector\":[0,0,0]}\n", &["zero", "row 0"]);
    refused("text.jsonl", "hello\n", &["text.jsonl"]);
    refused("cut.npy", "\u{93}NUMPY", &["cut.npy"]);
    refused(
        "long.jsonl",
        &format!("{{\"key\":\"{}\",\"vector\":[1,2,3]}}\n", "x".repeat(600)),
        &["600", "512"],
    );
    assert_ne!(import("missing.npy").code, 0);
    place.ok(&["create", "s", "numbers", "--dim", "3", "--metric", "l2"]);
    place.json(&["import", "s", "numbers", "rows.jsonl"]).refused(2, "invalid_argument", &["k0", "u64"]);
    // The last number is a key; behind it there is none, and the count must not begin anew.
    place.write("unnamed.jsonl", &"{\"vector\":[1,2,3]}\n".repeat(2));
    let words = ["--first-key 18446744073709551615", "row 1"];
    let last = ["unnamed.jsonl", "--first-key", "18446744073709551615"];
    let unnamed = |before: &[&str], more: &[&str]| place.json(&[before, &last, more].concat());
    unnamed(&["import", "s", "numbers"], &[]).refused(2, "invalid_argument", &words);
    unnamed(&["import", "s", "numbers"], &["--bulk"]).refused(2, "invalid_argument", &words);
    unnamed(&["build", "built"], &["--metric", "l2"]).refused(2, "invalid_argument", &words);
    place.json(&["get", "s", "numbers", "seven"]).refused(2, "invalid_argument", &["seven", "u64"]);
    place.json(&["search", "s", "docs", "--vector", "[1]"]).refused(
        2,
        "invalid_argument",
        &["1 numbers", "3"],
    );
    place.json(&["search", "s", "docs", "--vector", "one"]).refused(2, "invalid_argument", &["--vector"]);
    place.json(&["search", "s", "docs", "--key", "nobody"]).refused(3, "not_found", &["nobody"]);
    place.json(&["search", "s", "other", "--key", "k1"]).refused(3, "not_found", &["other", "docs"]);
    place.json(&["create", "s", "docs", "--dim", "4", "--metric", "l2"]).refused(
        4,
        "already_exists",
        &["dimension 3", "dimension 4"],
    );
    place.json(&["create", "s", "big", "--dim", "70000", "--metric", "l2"]).refused(
        2,
        "invalid_argument",
        &["70000", "65536"],
    );
    place.json(&["stats", "nowhere"]).refused(3, "not_found", &["nowhere"]);
    std::fs::create_dir(place.path("folder")).unwrap();
    place.write("folder/notes.txt", "mine");
    place.json(&["create", "folder", "docs", "--dim", "3", "--metric", "l2"]).refused(
        5,
        "not_a_store",
        &["notes.txt"],
    );
    assert_eq!(place.run(&["search", "s"]).code, 2);
    assert_eq!(place.run(&["import", "s", "docs", "rows.jsonl", "--durability", "maybe"]).code, 2);

    assert_eq!(place.ok(&["verify", "s"])["rows"], 10);
}

#[test]
fn a_locked_store_is_busy_and_says_whose_lock_it_is() {
    let place = Place::with_rows();
    let held = nearstone::Store::open(place.path("s")).unwrap();
    place.json(&["stats", "s"]).refused(7, "busy", &["lock"]);
    place.json(&["delete", "s", "docs", "k1"]).refused(7, "busy", &["lock"]);
    held.close().unwrap();
    assert_eq!(place.ok(&["stats", "s"])["collections"][0]["rows"], 10);
}

/// All files of a folder that are not empty.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if std::fs::metadata(&path).unwrap().len() > 0 {
            all.push(path);
        }
    }
    all
}

#[test]
fn damaged_files_end_with_an_exit_code_of_their_own() {
    let place = Place::with_rows();
    // One row that is only in the log.
    place.write("more.jsonl", "{\"key\":\"more\",\"vector\":[1,2,3]}\n");
    place.ok(&["import", "s", "docs", "more.jsonl", "--no-flush"]);
    for path in files(&place.path("s")) {
        let good = std::fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut flipped = good.clone();
        flipped[20] ^= 4;
        let cut = &good[..good.len() / 2];
        for (what, bytes) in [("flipped", &flipped[..]), ("cut", cut)] {
            std::fs::write(&path, bytes).unwrap();
            let ran = place.json(&["verify", "s"]);
            assert!([5, 6].contains(&ran.code), "{name} {what}: {} {}{}", ran.code, ran.out, ran.err);
            assert!(ran.err.contains(&name), "{name} {what}: {}", ran.err);
        }
        std::fs::remove_file(&path).unwrap();
        let ran = place.json(&["verify", "s"]);
        // A log file that is sealed whole is no longer needed: then all rows are there without it.
        let harmless = ran.code == 0 && ran.json()["rows"] == 11;
        assert!(
            harmless || [3, 5, 6].contains(&ran.code),
            "{name} removed: {} {}{}",
            ran.code,
            ran.out,
            ran.err
        );
        std::fs::write(&path, &good).unwrap();
        assert_eq!(place.ok(&["verify", "s"])["rows"], 11);
    }
}

#[test]
fn help_has_examples_and_exit_codes() {
    let place = Place::new();
    let help = place.run(&["--help"]);
    assert!(
        help.code == 0 && help.out.contains("Examples:") && help.out.contains("Exit codes"),
        "{}",
        help.out
    );
    for command in ["create", "import", "search", "export"] {
        assert!(place.run(&[command, "--help"]).out.contains("nearstone "), "{command}");
    }
    let help = place.run(&["bench", "recall", "--help"]);
    assert!(help.out.contains("nearstone bench recall"), "{}", help.out);
}
