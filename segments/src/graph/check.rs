//! What every finished graph must be. Tests and offline verification ask; the read path does not rely on it.

use super::{FlatGraph, LEVEL_MAX, NO_LINK};

/// Says what is wrong with a graph, if anything: levels that are not nested prefixes, lists of the wrong length, ids out
/// of range, links to oneself, duplicates, links after an unused place, or rows that row 0 does not reach on the
/// ground level. Costs one pass over the links.
pub fn check(graph: &FlatGraph) -> Result<(), String> {
    if graph.levels.len() > LEVEL_MAX + 1 {
        return Err(format!("{} levels: the limit is {}", graph.levels.len(), LEVEL_MAX + 1));
    }
    let mut below = u32::MAX;
    for (number, level) in graph.levels.iter().enumerate() {
        if level.rows == 0 || level.rows > below {
            return Err(format!("level {number} has {} rows, the one below {below}", level.rows));
        }
        below = level.rows;
        let places = level.rows as usize * level.stride;
        if level.links.len() != places {
            return Err(format!("level {number} has {} places, not {places}", level.links.len()));
        }
        for row in 0..level.rows {
            let start = row as usize * level.stride;
            let list = &level.links[start..start + level.stride];
            check_list(row, level.rows, list).map_err(|what| format!("level {number}, row {row}: {what}"))?;
        }
    }
    let Some(ground) = graph.levels.first() else { return Ok(()) };
    let mut reached = vec![false; ground.rows as usize];
    let mut queue = vec![0];
    reached[0] = true;
    while let Some(row) = queue.pop() {
        for &link in ground.list(row) {
            if !std::mem::replace(&mut reached[link as usize], true) {
                queue.push(link);
            }
        }
    }
    match reached.iter().position(|&reached| !reached) {
        Some(row) => {
            let lost = reached.iter().filter(|&&reached| !reached).count();
            Err(format!("row {row} and {} more are not reachable from row 0", lost - 1))
        }
        None => Ok(()),
    }
}

fn check_list(row: u32, rows: u32, list: &[u32]) -> Result<(), String> {
    let used = list.iter().position(|&link| link == NO_LINK).unwrap_or(list.len());
    if let Some(stray) = list[used..].iter().find(|&&link| link != NO_LINK) {
        return Err(format!("{stray} stands after an unused place"));
    }
    for (place, &link) in list[..used].iter().enumerate() {
        if link >= rows {
            return Err(format!("the link {link} is out of range: the level has {rows} rows"));
        }
        if link == row {
            return Err("a link to itself".into());
        }
        if list[..place].contains(&link) {
            return Err(format!("{link} is there twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::FlatLevel;

    fn ground(links: &[u32]) -> FlatGraph {
        FlatGraph {
            levels: vec![FlatLevel { rows: links.len() as u32 / 2, stride: 2, links: links.to_vec() }],
            beam: 0,
        }
    }

    #[test]
    fn each_fault_is_named() {
        const N: u32 = NO_LINK;
        assert_eq!(check(&FlatGraph::default()), Ok(()));
        assert_eq!(check(&ground(&[N, N])), Ok(()));
        assert_eq!(check(&ground(&[1, N, 2, 0, N, N])), Ok(()));
        for (links, word) in [
            (&[1, N, 3, N, N, N][..], "out of range"),
            (&[1, N, 2, N, 2, N], "itself"),
            (&[1, 1, 2, N, N, N], "twice"),
            (&[N, 1, 2, N, N, N], "after an unused place"),
            (&[1, N, N, N, 0, N], "not reachable"),
        ] {
            let what = check(&ground(links)).unwrap_err();
            assert!(what.contains(word), "{what}");
        }
        let mut graph = ground(&[1, N, N, N]);
        graph.levels.push(FlatLevel { rows: 3, stride: 2, links: vec![N; 6] });
        assert!(check(&graph).unwrap_err().contains("level 1 has 3 rows"));
        graph.levels[1].rows = 1;
        assert!(check(&graph).unwrap_err().contains("places"));
    }
}
