//! A snapshot keeps seeing the rows of its moment while the store goes on: through upserts, deletes, a seal and a
//! compaction.
//!
//! Run with `cargo run --example snapshot`.

use nearstone::{Metric, Schema, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::in_memory()?;
    let points = store.create_collection("points", Schema::new(2, Metric::L2))?;
    for key in 0..100u64 {
        points.upsert(key, &[key as f32, 0.0], ())?;
    }

    let before = store.snapshot();

    for key in 0..50u64 {
        points.delete(key)?;
    }
    points.upsert(99u64, &[-1.0, 0.0], ())?;
    store.flush()?;
    store.compact()?;

    let then = points.at(&before)?;
    println!("then: {} rows, now: {} rows", then.len(), points.len()?);
    assert_eq!((then.len(), points.len()?), (100, 50));

    let origin = [0.0, 0.0];
    let nearest_then = then.search(&origin).limit(1).run()?[0].key().clone();
    let nearest_now = points.search(&origin).limit(1).run()?[0].key().clone();
    println!("nearest to the origin then: {nearest_then}, now: {nearest_now}");
    assert_eq!((nearest_then.as_u64(), nearest_now.as_u64()), (Some(0), Some(99)));
    Ok(())
}
