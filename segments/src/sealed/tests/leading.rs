//! Segments whose rows differ along few directions: their inline rows hold these alone, and nothing is lost by it.

use super::*;
use crate::seal::LEVEL_SEED;
use crate::sealed::inline::batch::Batches;
use crate::sealed::{Join, write_batched, write_joined};

const DIMENSION: usize = 256;
const ROWS: u32 = 1_600;

fn schema(metric: Metric) -> Schema {
    Schema::new(DIMENSION, metric).m(16).ef_construction(64)
}

/// Rows near a surface of ten dimensions that bends through forty, from `first` on.
fn bent(schema: &Schema, first: u32, count: u32) -> Rows {
    let unit = |rng: &mut SplitMix64| rng.unit_f64() as f32 - 0.5;
    let mut weights = SplitMix64::new(7);
    let inner: Vec<[f32; 10]> = (0..40).map(|_| [(); 10].map(|()| 4.0 * unit(&mut weights))).collect();
    let outer: Vec<[f32; 40]> = (0..DIMENSION).map(|_| [(); 40].map(|()| unit(&mut weights))).collect();
    let mut rows = rows_of(schema, count, 5);
    for (row, place) in (first..).zip(&mut rows.rows) {
        place.key = Key::U64(u64::from(row));
        let mut rng = SplitMix64::new(u64::from(row) + 1);
        let latent = [(); 10].map(|()| unit(&mut rng));
        let hidden: Vec<f32> = inner
            .iter()
            .map(|weights| weights.iter().zip(latent).map(|(w, z)| w * z).sum::<f32>().tanh())
            .collect();
        for (x, weights) in place.vector.iter_mut().zip(&outer) {
            *x = weights.iter().zip(&hidden).map(|(w, h)| w * h).sum::<f32>() + 0.05 * unit(&mut rng);
        }
    }
    rows
}

fn sealed(schema: &Schema, rows: &Rows) -> Made {
    let (rows, graph) = graph_of(schema, rows);
    let vfs = folder();
    let meta = write_segment(&target(&vfs), schema, &rows, &graph, &|| false).unwrap();
    Made { vfs, meta, rows }
}

/// Whether its inline rows are those of 64 numbers, of one bit or four.
fn leads(made: &Made) -> bool {
    let stride = layout(&made.bytes()).section(format::INLINE_ROWS).unwrap().stride;
    let of = |dimension: u64, bits: u64| 2 * dimension + 32 * dimension * bits / 8 + 32 * 8;
    let leads = [of(64, 1), of(64, 4)].contains(&stride);
    assert_eq!(leads, made.bytes()[24] == 1, "the header says so");
    leads
}

/// The share of the ten nearest that are found, all of them at their right distances; every row lies in the file as it should.
fn recall(made: &Made, ef: usize) -> f64 {
    let segment = made.open();
    segment.verify(&mut |_, _| true).unwrap();
    let mut rng = SplitMix64::new(9);
    let (mut found, mut wanted) = (0, 0);
    for row in made.rows.rows.iter().step_by(23) {
        let query: Vec<f32> = row.vector.iter().map(|x| x + 0.1 * (rng.unit_f64() as f32 - 0.5)).collect();
        let exact = ExactDistance::new(made.rows.metric, &query);
        let last = truth(&made.rows, &query, 10, |_| true)[9].distance;
        let hits = segment.search(&query, &options(10, ef), &mut Scratch::default()).unwrap();
        for hit in &hits {
            assert_eq!(hit.distance, exact.distance(&made.rows.rows[hit.ordinal as usize].vector));
        }
        found += hits.iter().filter(|hit| hit.distance <= last).count();
        wanted += 10;
    }
    found as f64 / wanted as f64
}

#[test]
fn few_directions_are_found_and_lose_no_hits_under_every_metric() {
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let schema = schema(metric);
        let made = sealed(&schema, &bent(&schema, 0, ROWS));
        assert!(leads(&made), "{metric:?}");
        let recall = recall(&made, 64);
        assert!(recall >= 0.97, "{metric:?}: {recall}");
    }
}

#[test]
fn joined_and_batched_segments_are_made_along_the_directions_too() {
    let schema = schema(Metric::Cosine);
    let inputs = [bent(&schema, 0, ROWS), bent(&schema, ROWS, ROWS)].map(|rows| sealed(&schema, &rows));
    let segments = [inputs[0].open(), inputs[1].open()];
    let all: Vec<(u32, u32)> = (0..2).flat_map(|input| (0..ROWS).map(move |row| (input, row))).collect();
    let join = Join::plan(&schema, &[&segments[0], &segments[1]], &all, LEVEL_SEED).unwrap();
    let row = |&(input, row): &(u32, u32)| inputs[input as usize].rows.rows[row as usize].clone();
    let rows = Rows { metric: schema.metric(), rows: join.origin().iter().map(row).collect() };
    let vfs = folder();
    let meta = write_joined(&target(&vfs), &schema, &rows, &join, &|| false).unwrap().unwrap();
    let joined = Made { vfs, meta, rows };

    let rows = bent(&schema, 0, 2 * ROWS);
    let batches = Batches::plan(&schema, rows.rows(), LEVEL_SEED).unwrap();
    let rows = batches.order().iter().map(|&row| rows.rows[row as usize].clone()).collect();
    let rows = Rows { metric: schema.metric(), rows };
    let vfs = folder();
    let meta = write_batched(&target(&vfs), &schema, &rows, &batches, &|| false).unwrap().unwrap();
    for made in [joined, Made { vfs, meta, rows }] {
        assert!(leads(&made));
        let recall = recall(&made, 64);
        assert!(recall >= 0.97, "{recall}");
    }
}

/// Those that were looked at while directions were learnt, one in sixteen, have no twin among them.
#[test]
fn twins_that_the_directions_cannot_tell_apart_bring_all_of_them_back() {
    let schema = schema(Metric::L2);
    let mut rows = bent(&schema, 0, 2 * ROWS);
    let mut rng = SplitMix64::new(21);
    for row in 0..ROWS as usize {
        let twin = rows.rows[row].vector.iter().map(|x| x + 0.03 * (rng.unit_f64() as f32 - 0.5)).collect();
        rows.rows[row + ROWS as usize].vector = twin;
    }
    let (linked, graph) = graph_of(&schema, &rows);
    let vfs = folder();
    let meta = write_segment(&target(&vfs), &schema, &linked, &graph, &|| false).unwrap();
    let batches = Batches::plan(&schema, rows.rows(), LEVEL_SEED).unwrap();
    let ordered = batches.order().iter().map(|&row| rows.rows[row as usize].clone()).collect();
    let ordered = Rows { metric: schema.metric(), rows: ordered };
    let other = folder();
    let batched = write_batched(&target(&other), &schema, &ordered, &batches, &|| false).unwrap().unwrap();
    assert_eq!(batches.done(), u64::from(rows.rows()), "what was done twice counts once");
    for made in [Made { vfs, meta, rows: linked }, Made { vfs: other, meta: batched, rows: ordered }] {
        assert!(!leads(&made));
        let recall = recall(&made, 64);
        assert!(recall >= 0.97, "{recall}");
    }
}

#[test]
fn lies_about_directions_are_errors() {
    let schema = schema(Metric::L2);
    let good = sealed(&schema, &bent(&schema, 0, ROWS)).bytes();
    let space = layout(&good).section(format::INLINE_SPACE).unwrap();
    let forged = |at: usize, bytes: &[u8]| {
        let mut forged = good.clone();
        forged[at..at + bytes.len()].copy_from_slice(bytes);
        open_bytes(&reseal(&forged, |_| ())).map_err(|error| error.kind())
    };
    assert!(forged(24, &[1]).is_ok());
    assert_eq!(forged(24, &[0]).unwrap_err(), ErrorKind::Corruption, "a header that knows nothing of them");
    assert_eq!(forged(24, &[3]).unwrap_err(), ErrorKind::UnsupportedVersion);
    let spread = space.offset as usize + 16 + 4 * DIMENSION;
    for number in [f32::NAN, -0.5, 1.0, f32::INFINITY] {
        assert_eq!(forged(spread, &number.to_le_bytes()).unwrap_err(), ErrorKind::Corruption);
        if number != 1.0 {
            assert_eq!(forged(spread + 4, &number.to_le_bytes()).unwrap_err(), ErrorKind::Corruption);
        }
    }
    let shorter = reseal(&good, |footer| {
        for section in footer.sections.iter_mut().filter(|section| section.id == format::INLINE_SPACE) {
            section.len -= DIMENSION as u64;
            section.count -= DIMENSION as u64;
        }
    });
    assert_eq!(open_bytes(&shorter).unwrap_err().kind(), ErrorKind::Corruption);
}
