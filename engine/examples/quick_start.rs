//! Opens a store, puts three notes, searches them, and closes it.
//!
//! Run with `cargo run --example quick_start`.

use nearstone::{KeyType, Metric, Schema, Store};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Note {
    title: String,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(folder.path().join("notes.near"))?;
    let notes = store.collection_or_create("notes", Schema::new(4, Metric::Cosine).keys(KeyType::Str))?;

    // In a real program the vectors come from an embedding model.
    for (key, vector, title) in [
        ("apples", [0.9, 0.1, 0.0, 0.1], "Growing apples"),
        ("pears", [0.8, 0.2, 0.1, 0.1], "Storing pears"),
        ("engines", [0.0, 0.1, 0.9, 0.4], "Tuning engines"),
    ] {
        notes.upsert(key, &vector, &Note { title: title.to_owned() })?;
    }

    println!("nearest to fruit:");
    for hit in notes.search(&[1.0, 0.2, 0.0, 0.1]).limit(2).with_payload().run()? {
        println!("  {:<8} {:.4}  {}", hit.key(), hit.distance(), hit.payload::<Note>()?.title);
    }

    assert!(notes.delete("pears")?);
    assert!(notes.get("pears")?.is_none());
    store.close()?;
    Ok(())
}
