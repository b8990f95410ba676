//! Crash enumeration: a history runs once, and every disk that a power loss during it could have left is opened.
//!
//! 1. The simulated disk keeps the moment before each of its operations: what was durable, and what was on its way.
//! 2. Each moment is laid out: with up to ten operations on their way all subsets of them, with more the prefixes,
//!    every one lost or kept alone, pairs and random subsets; and every write torn, at 512 and 4,096 bytes, or only
//!    its size arrived. Equal disks are looked at once.
//!    Some moments are also met by a process that is merely killed: the next one reads everything, of which part is
//!    not durable, and then the power goes during its recovery or after it.
//! 3. Each disk is opened, read whole, searched, verified, closed and opened again, which must change nothing; from some
//!    of these recoveries the power goes again.
//! 4. What was recovered must be the model at one lsn L, `acknowledged <= L <= issued`, in every collection.

use crate::history::{COLLECTIONS, History, Mark, Op, metric, open_store};
use crate::model::{DIMENSION, ModelRow, Rows, check_collection};
use nearstone::clock::ManualClock;
use nearstone::random::SplitMix64;
use nearstone::vfs::{Fate, Moment, SimVfs};
use nearstone::{Key, Store};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Up to so many operations on their way, all subsets are laid out.
const SUBSETS_MAX: usize = 10;
/// Beyond that, so many random subsets.
const RANDOM_SUBSETS: usize = 48;
/// At one layout in so many, the process is killed instead.
const MOMENTS_KILLED: u64 = 8;
/// One recovery in so many is itself interrupted.
const RECOVERIES_INTERRUPTED: u64 = 4;

/// What an open found on a disk.
struct Recovered {
    lsn: u64,
    collections: BTreeMap<String, Rows>,
    /// What was found after crashes during that open.
    again: Vec<Recovered>,
}

/// Disks that were looked at. Histories of one seed that begin alike share them.
pub struct Enumerator {
    rng: SplitMix64,
    /// When to stop, whatever is left.
    until: Option<Instant>,
    seen: HashMap<u128, Rc<Result<Recovered, String>>>,
    /// Distinct disks opened.
    pub images: u64,
    /// Disks laid out, equal ones counted each time.
    pub laid_out: u64,
    /// Crashes during recoveries.
    pub recoveries: u64,
}

/// Between two operations of the history: what was known before and after, and the operation; `None` while the store
/// was being made.
struct Interval<'a> {
    before: Option<&'a Mark>,
    after: &'a Mark,
    op: Option<&'a Op>,
}

impl Enumerator {
    /// One that has seen nothing. The seed decides about random subsets and interrupted recoveries.
    pub fn new(seed: u64) -> Enumerator {
        let rng = SplitMix64::new(seed);
        Enumerator { rng, until: None, seen: HashMap::new(), images: 0, laid_out: 0, recoveries: 0 }
    }

    /// The runs from now on end at this time, if they have not ended before.
    pub fn stop_at(&mut self, until: Option<Instant>) {
        self.until = until;
    }

    fn late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Runs a history and judges every disk that a crash could have left; when there are more than about `images_max`
    /// that were not seen, a choice of so many, spread over all moments. Says what went wrong first.
    pub fn run(&mut self, seed: u64, ops: &[Op], images_max: u64) -> Result<(), String> {
        let disk = SimVfs::new(seed);
        disk.record();
        let mut history = History::on(disk.clone(), seed)?;
        let mut marks = vec![history.mark()];
        for op in ops {
            marks.push(history.advance(op)?);
        }
        let moments = disk.recorded();
        drop(history);

        let mut plans: Vec<(&Moment, Vec<Fate>)> = Vec::new();
        for moment in &moments {
            plans.extend(self::plans(moment, &mut self.rng).into_iter().map(|fates| (moment, fates)));
        }
        // Most of them are equal to others: of a choice at random, those that are new count.
        let stop = self.images.saturating_add(images_max);
        if plans.len() as u64 > images_max {
            shuffle(&mut plans, &mut self.rng);
        }
        for (moment, fates) in plans {
            if self.images >= stop || self.late() {
                break;
            }
            let interval = interval(moment, &marks, ops);
            let image = moment.image(&fates);
            self.laid_out += 1;
            let found = self.recovered(&image, seed);
            let judged = match &*found {
                Ok(recovered) => judge(recovered, &interval),
                Err(error) => Err(error.clone()),
            };
            let judged = judged.and_then(|()| match self.rng.below(MOMENTS_KILLED) {
                0 => self.killed(moment, seed, &interval),
                _ => Ok(()),
            });
            judged.map_err(|error| {
                format!(
                    "seed {seed}, {ops:?}: the power goes before disk operation {}, of {} on their way {fates:?}: {error}",
                    moment.ops(),
                    moment.pending()
                )
            })?;
        }
        Ok(())
    }

    /// The process is killed here, the next one recovers from what it can read, and the power goes during that or after it.
    fn killed(&mut self, moment: &Moment, seed: u64, interval: &Interval<'_>) -> Result<(), String> {
        let disk = moment.killed();
        disk.record();
        let clock = Arc::new(ManualClock::default());
        let store =
            open_store(&disk, &clock, seed ^ 0x6177).map_err(|error| format!("after a kill: {error}"))?;
        let served = read(&store).map_err(|error| format!("after a kill: {error}"))?;
        judge(&served, interval).map_err(|error| format!("after a kill: {error}"))?;
        if self.rng.below(2) == 0 {
            store.close().map_err(|error| format!("close after a kill: {error}"))?;
        }
        let moments = disk.recorded();
        drop(store);
        let last = moments.len() - 1;
        for choice in 0..4 {
            let place = if choice == 0 { last } else { self.rng.below(last as u64 + 1) as usize };
            let share = if choice == 0 { 0 } else { self.rng.below(11) };
            let moment = &moments[place];
            let fates: Vec<Fate> = (0..moment.pending())
                .map(|_| if self.rng.below(10) < share { Fate::Kept } else { Fate::Lost })
                .collect();
            self.laid_out += 1;
            let what =
                || format!("after a kill the power goes before operation {} of the recovery", moment.ops());
            let found = self.recovered(&moment.image(&fates), seed);
            let found = match &*found {
                Ok(found) => found,
                Err(error) => return Err(format!("{}, {fates:?}: {error}", what())),
            };
            judge(found, interval).map_err(|error| format!("{}, {fates:?}: {error}", what()))?;
            // What recovery has served stays.
            if place == last && (found.lsn < served.lsn || found.collections != served.collections) {
                return Err(format!("{}: lsn {} was served, {} is left", what(), served.lsn, found.lsn));
            }
        }
        Ok(())
    }

    /// Forgets the disks, not the counts: for the next seed.
    pub fn forget(&mut self) {
        self.seen.clear();
    }

    fn recovered(&mut self, image: &SimVfs, seed: u64) -> Rc<Result<Recovered, String>> {
        let digest = image.digest();
        if let Some(known) = self.seen.get(&digest) {
            return known.clone();
        }
        self.images += 1;
        let interrupt = self.rng.below(RECOVERIES_INTERRUPTED) == 0;
        let found = Rc::new(recover(image, seed, interrupt.then_some(&mut self.rng)));
        self.recoveries += found.as_ref().as_ref().map_or(0, |found| found.again.len() as u64);
        self.seen.insert(digest, found.clone());
        found
    }
}

fn interval<'a>(moment: &Moment, marks: &'a [Mark], ops: &'a [Op]) -> Interval<'a> {
    // The last mark at or before the moment, and the one after it.
    let done = marks.iter().take_while(|mark| mark.ops <= moment.ops()).count();
    match done {
        0 => Interval { before: None, after: &marks[0], op: None },
        _ => {
            let after = marks.get(done).unwrap_or(&marks[done - 1]);
            Interval { before: Some(&marks[done - 1]), after, op: ops.get(done - 1) }
        }
    }
}

fn shuffle<T>(items: &mut [T], rng: &mut SplitMix64) {
    for place in (1..items.len()).rev() {
        items.swap(place, rng.below(place as u64 + 1) as usize);
    }
}

/// The ways in which a moment is laid out.
fn plans(moment: &Moment, rng: &mut SplitMix64) -> Vec<Vec<Fate>> {
    let count = moment.pending();
    let mut plans = Vec::new();
    if count <= SUBSETS_MAX {
        for subset in 0..1u32 << count {
            plans.push(
                (0..count).map(|i| if subset >> i & 1 == 1 { Fate::Kept } else { Fate::Lost }).collect(),
            );
        }
    } else {
        let all_but = |base: Fate, other: Fate, places: &[usize]| -> Vec<Fate> {
            (0..count).map(|i| if places.contains(&i) { other } else { base }).collect()
        };
        for kept in 0..=count {
            plans.push((0..count).map(|i| if i < kept { Fate::Kept } else { Fate::Lost }).collect());
        }
        for place in 0..count {
            plans.push(all_but(Fate::Kept, Fate::Lost, &[place]));
            plans.push(all_but(Fate::Lost, Fate::Kept, &[place]));
            let other = rng.below(count as u64) as usize;
            plans.push(all_but(Fate::Kept, Fate::Lost, &[place, other]));
            plans.push(all_but(Fate::Lost, Fate::Kept, &[place, other]));
        }
        for _ in 0..RANDOM_SUBSETS {
            let share = 1 + rng.below(9);
            plans.push(
                (0..count).map(|_| if rng.below(10) < share { Fate::Kept } else { Fate::Lost }).collect(),
            );
        }
    }
    // Each write torn while all others arrived, and while only those before it did.
    for place in 0..count {
        let mut torn = Vec::new();
        for unit in [512, 4096] {
            let all = moment.units(place, unit);
            // All places in small writes, some in large ones.
            let step = all.div_ceil(8).max(1);
            for units in (1..all).step_by(step) {
                torn.extend([Fate::Head { unit, units }, Fate::Tail { unit, units }]);
            }
        }
        if moment.units(place, 512) > 0 {
            torn.push(Fate::SizeOnly);
        }
        for fate in torn {
            let others = |later: Fate| -> Vec<Fate> {
                (0..count)
                    .map(|i| match i.cmp(&place) {
                        std::cmp::Ordering::Less => Fate::Kept,
                        std::cmp::Ordering::Equal => fate,
                        std::cmp::Ordering::Greater => later,
                    })
                    .collect()
            };
            plans.push(others(Fate::Lost));
            if place + 1 < count {
                plans.push(others(Fate::Kept));
            }
        }
    }
    plans
}

/// Opens a disk and reads all of it; with a generator, the open is itself cut short a few times.
fn recover(image: &SimVfs, seed: u64, interrupt: Option<&mut SplitMix64>) -> Result<Recovered, String> {
    let clock = Arc::new(ManualClock::default());
    if interrupt.is_some() {
        image.record();
    }
    let store = open_store(image, &clock, seed ^ 0x5eed)?;
    let mut found = read(&store)?;
    if let Some(rng) = interrupt {
        let moments = image.recorded();
        for _ in 0..3 {
            let moment = &moments[rng.below(moments.len() as u64) as usize];
            let share = rng.below(11);
            let fates: Vec<Fate> = (0..moment.pending())
                .map(|_| if rng.below(10) < share { Fate::Kept } else { Fate::Lost })
                .collect();
            let again = recover(&moment.image(&fates), seed ^ 0xa9a1, None);
            found.again.push(again.map_err(|error| {
                format!(
                    "the power goes again before operation {} of the recovery, {fates:?}: {error}",
                    moment.ops()
                )
            })?);
        }
    }
    store.verify().map_err(|error| format!("verify: {error}"))?;
    leaked(&store, image)?;
    store.close().map_err(|error| format!("close: {error}"))?;
    drop(store);

    // The catalog's library marks its file as open and as closed; what it holds is compared as rows.
    let files = |image: &SimVfs| image.digest_of(|path| path.file_name() != Some("catalog".as_ref()));
    let closed = files(image);
    let store = open_store(image, &clock, seed ^ 0x0be2)?;
    let second = read(&store)?;
    if second.lsn != found.lsn || second.collections != found.collections {
        return Err(format!("a second open finds lsn {} after {}, or other rows", second.lsn, found.lsn));
    }
    store.close().map_err(|error| format!("close: {error}"))?;
    drop(store);
    if files(image) != closed {
        return Err(format!("opening and closing changed the files: {:?}", image.files()));
    }
    Ok(found)
}

/// Everything in the store, each collection checked against itself: counts, order, searches.
fn read(store: &Store) -> Result<Recovered, String> {
    let text = |error: nearstone::Error| error.to_string();
    let snapshot = store.snapshot();
    let mut collections = BTreeMap::new();
    for name in store.collections().map_err(text)? {
        let collection = store.collection(&name).map_err(text)?;
        let reads = collection.at(&snapshot).map_err(text)?;
        let mut rows = Rows::new();
        for key in reads.keys().map_err(text)? {
            let key = key.map_err(text)?;
            let row =
                reads.get(&key).map_err(text)?.ok_or_else(|| format!("key {key} is listed and not there"))?;
            let Key::U64(number) = key else { return Err(format!("key {key:?} is no number")) };
            let payload = row.payload_json().to_owned();
            let version = row.version();
            rows.insert(number, ModelRow { vector: row.into_vector(), payload, version });
        }
        check_collection(collection.schema().metric(), &reads, &rows, &[0.5; DIMENSION])?;
        collections.insert(name, rows);
    }
    Ok(Recovered { lsn: snapshot.lsn(), collections, again: Vec::new() })
}

/// Every segment file is one that the catalog names.
fn leaked(store: &Store, disk: &SimVfs) -> Result<(), String> {
    let stats = store.stats().map_err(|error| error.to_string())?;
    let named: u64 = stats.collections.iter().map(|c| c.segments.len() as u64).sum();
    let folder = Path::new("store/segments");
    let files: Vec<_> = disk.files().into_iter().filter(|(path, _)| path.starts_with(folder)).collect();
    if files.len() as u64 != named {
        return Err(format!("{} segment files, of which the catalog names {named}: {files:?}", files.len()));
    }
    Ok(())
}

/// The model at one lsn, in every collection, and so after every further crash.
fn judge(found: &Recovered, interval: &Interval<'_>) -> Result<(), String> {
    let least = interval.before.map_or(0, |mark| mark.acknowledged);
    let most = interval.after.past.last_key_value().map_or(0, |(lsn, _)| *lsn);
    if found.lsn < least || found.lsn > most {
        return Err(format!(
            "recovered to lsn {}: acknowledged up to {least}, issued up to {most}",
            found.lsn
        ));
    }
    let marks = || interval.before.into_iter().chain([interval.after]);
    let mut known = 0;
    for collection in 0..COLLECTIONS {
        let present = marks().find_map(|mark| found.collections.get(&mark.names[&collection]));
        let Some(rows) = present else {
            let may_be_gone = match interval.op {
                None => interval.before.is_none(),
                Some(op) => matches!(op, Op::Recreate(c) if *c == collection),
            };
            if may_be_gone {
                continue;
            }
            return Err(format!("collection {collection} is gone: there are {:?}", found.collections.keys()));
        };
        known += 1;
        let none = Rc::new(Rows::new());
        // A load takes its lsn before its rows are there.
        let unloaded = interval
            .before
            .filter(|_| matches!(interval.op, Some(Op::Load { .. } | Op::Attach { .. })) && found.lsn == most)
            .and_then(|mark| mark.past.last_key_value().map(|(_, state)| state));
        let expected: Vec<&Rc<Rows>> = marks()
            .filter_map(|mark| mark.past.get(&found.lsn))
            .chain(unloaded)
            .map(|state| state.collections.get(&collection).unwrap_or(&none))
            .collect();
        if !expected.iter().any(|expected| ***expected == *rows) {
            return Err(format!(
                "collection {collection} ({:?}) at lsn {} is {rows:?}, the model has {:?}",
                metric(collection),
                found.lsn,
                expected.last()
            ));
        }
    }
    if known != found.collections.len() {
        return Err(format!("there are {:?}, of which the model knows {known}", found.collections.keys()));
    }
    found
        .again
        .iter()
        .try_for_each(|again| judge(again, interval).map_err(|error| format!("and again: {error}")))
}
