//! The model: a store as plain maps, with one state per lsn, so that a store recovered from a crash can be compared
//! with any moment of its past.

use nearstone::{Collection, CollectionAt, Metric, Store};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Numbers per vector in all histories.
pub const DIMENSION: usize = 4;

/// A row: the vector's bits and the payload's text.
#[derive(Clone, PartialEq, Debug)]
pub struct ModelRow {
    /// The vector.
    pub vector: Vec<f32>,
    /// JSON text; empty for none.
    pub payload: String,
    /// The lsn that wrote it.
    pub version: u64,
}

/// The rows of one collection.
pub type Rows = BTreeMap<u64, ModelRow>;

/// All collections at one moment, by the number that a history gives them.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct State {
    /// Number of the collection -> its rows.
    pub collections: BTreeMap<usize, Rc<Rows>>,
}

impl State {
    /// Changes the rows of a collection.
    pub fn rows_mut(&mut self, collection: usize) -> &mut Rows {
        Rc::make_mut(self.collections.entry(collection).or_default())
    }
}

/// Every read of a collection agrees with the model's rows: count, keys in order, every row bit by bit, exact search,
/// and graph search in what it promises (live rows, right distances, as many as there are).
pub fn check_collection(
    metric: Metric,
    reads: &CollectionAt,
    expected: &Rows,
    query: &[f32],
) -> Result<(), String> {
    let fail = |what: String| Err(format!("{reads:?}: {what}"));
    if reads.len() != expected.len() as u64 {
        return fail(format!("len is {}, the model has {}", reads.len(), expected.len()));
    }
    let keys: Vec<u64> = reads
        .keys()
        .and_then(|keys| keys.map(|key| key.map(|key| key.as_u64().unwrap_or(u64::MAX))).collect())
        .map_err(|error| error.to_string())?;
    if !keys.iter().eq(expected.keys()) {
        return fail(format!("keys are {keys:?}, the model has {:?}", expected.keys().collect::<Vec<_>>()));
    }
    for (key, row) in expected {
        let found = reads.get(*key).map_err(|error| error.to_string())?;
        let Some(found) = found else { return fail(format!("key {key} is gone")) };
        let same_bits = found.vector().iter().map(|x| x.to_bits()).eq(row.vector.iter().map(|x| x.to_bits()));
        if !same_bits || found.payload_json() != row.payload || found.version() != row.version {
            return fail(format!("key {key} is {found:?}, the model has {row:?}"));
        }
    }
    let limit = 5;
    let expected_distances = {
        let mut all: Vec<(f64, u64)> =
            expected.iter().map(|(key, row)| (distance(metric, query, &row.vector), *key)).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        all.truncate(limit);
        all
    };
    for exact in [true, false] {
        let hits = reads
            .search(query)
            .limit(limit)
            .ef(32)
            .exact(exact)
            .with_payload()
            .run()
            .map_err(|error| error.to_string())?;
        if hits.len() != expected_distances.len() {
            return fail(format!("{} hits, exact: {exact}, of {} rows", hits.len(), expected.len()));
        }
        for (place, hit) in hits.iter().enumerate() {
            let key = hit.key().as_u64().unwrap_or(u64::MAX);
            let Some(row) = expected.get(&key) else {
                return fail(format!("a search found key {key}, which is not there"));
            };
            let is = f64::from(hit.distance());
            let right = distance(metric, query, &row.vector);
            if !close(is, right) || hit.payload_json() != Some(row.payload.as_str()) {
                return fail(format!("key {key} was found at {is}, its distance is {right}"));
            }
            if exact && !close(is, expected_distances[place].0) {
                return fail(format!("hit {place} is at {is}: {:?} is nearer", expected_distances[place]));
            }
        }
        if !hits.is_sorted_by(|a, b| (a.distance(), a.key()) <= (b.distance(), b.key())) {
            return fail(format!("hits are out of order: {hits:?}"));
        }
    }
    Ok(())
}

/// The distance in double precision.
pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    match metric {
        Metric::Cosine => 1.0 - dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()),
        Metric::L2 => a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum(),
        Metric::InnerProduct => -dot(a, b),
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-5 * a.abs().max(b.abs()) + 1e-6
}

/// A collection as the store sees it now.
pub fn now(store: &Store, collection: &Collection) -> Result<CollectionAt, String> {
    collection.at(&store.snapshot()).map_err(|error| error.to_string())
}
