//! Runs of tables as they are stored: one after the other, each its tables and then the norms of its rows.

use half::f16;

use crate::tables::{Run, Tables};

/// The runs of a segment that are stored, oldest first.
///
/// A run has room for so many rows, of which the last ones may be missing. Its words are tables `[L, 2^K + 1 + room]`, the
/// norms `[room]` in f16, and zeroes up to a multiple of L.
#[derive(Clone, Copy, Debug)]
pub struct StoredRuns<'a> {
    bits: usize,
    tables: usize,
    words: &'a [u16],
    rooms: &'a [usize],
}

/// How many words a stored run has, in groups of L: of tables of 2^`bits` buckets, with room for `room` rows.
pub fn stored_groups(bits: usize, tables: usize, room: usize) -> usize {
    (1 << bits) + 1 + room + room.div_ceil(tables)
}

impl<'a> StoredRuns<'a> {
    /// None.
    pub const NONE: StoredRuns<'static> = StoredRuns { bits: 0, tables: 1, words: &[], rooms: &[] };

    /// Runs of `tables` tables of 2^`bits` buckets with these rooms, if `words` are as many as they need.
    pub fn new(bits: usize, tables: usize, words: &'a [u16], rooms: &'a [usize]) -> Option<StoredRuns<'a>> {
        let groups: usize = rooms.iter().map(|&room| stored_groups(bits, tables, room)).sum();
        (words.len() == groups * tables).then_some(StoredRuns { bits, tables, words, rooms })
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.rooms.is_empty()
    }

    /// The tables of each run, and the norms of the rows that it has room for.
    pub fn iter(self) -> impl Iterator<Item = (Tables<'a>, &'a [f16])> {
        let StoredRuns { bits, tables, words, rooms } = self;
        let mut rest = words;
        rooms.iter().map(move |&room| {
            let (run, later) = rest.split_at(stored_groups(bits, tables, room) * tables);
            rest = later;
            let (words, norms) = run.split_at(tables * ((1 << bits) + 1 + room));
            (Tables::stored(bits, tables, words), bytemuck::cast_slice(&norms[..room]))
        })
    }
}

/// The words of a run as it is stored with room for `room` rows; without a run, of one that has none. `norms` are those of
/// its rows.
///
/// # Panics
/// If the run has more rows, or other tables, or there are not as many norms.
pub fn encode(bits: usize, tables: usize, run: Option<&Run>, norms: &[f16], room: usize) -> Vec<u16> {
    let rows = run.map_or(0, Run::rows);
    assert!(rows <= room && norms.len() == rows, "{rows} rows, {} norms, room for {room}", norms.len());
    let mut words = vec![0; stored_groups(bits, tables, room) * tables];
    let (tables_at, norms_at) = words.split_at_mut(tables * ((1 << bits) + 1 + room));
    if let Some(run) = run {
        assert_eq!(run.tables().len(), tables);
        run.tables().copy_to(tables_at);
    }
    norms_at[..rows].copy_from_slice(bytemuck::cast_slice(norms));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const BITS: usize = 3;
    const TABLES: usize = 5;

    fn run(first: usize, rows: usize) -> (Run, Vec<f16>) {
        let codes: Vec<u16> = (0..TABLES * rows).map(|i| ((i * i + first) % 8) as u16).collect();
        let norms = (0..rows).map(|row| f16::from_f32((first + row) as f32)).collect();
        (Run::build(first, rows, 1 << BITS, &codes), norms)
    }

    #[test]
    fn stored_runs_are_read_back_and_merge_as_runs_in_memory_do() {
        let parts = [run(4, 20), run(24, 1), run(25, 9)];
        let rooms = [23, 1, 9];
        let words: Vec<u16> = parts
            .iter()
            .zip(rooms)
            .flat_map(|((run, norms), room)| encode(BITS, TABLES, Some(run), norms, room))
            .collect();
        let stored = StoredRuns::new(BITS, TABLES, &words, &rooms).expect("as many as they need");
        for ((tables, norms), (run, expected)) in stored.iter().zip(&parts) {
            assert_eq!(norms[..expected.len()], expected[..]);
            for (table, code) in (0..TABLES).flat_map(|table| (0..8).map(move |code| (table, code))) {
                assert_eq!(tables.bucket(table, code), run.tables().bucket(table, code));
            }
        }
        let tables: Vec<Tables<'_>> = stored.iter().map(|(tables, _)| tables).collect();
        let memory: Vec<Tables<'_>> = parts.iter().map(|(run, _)| run.tables()).collect();
        assert_eq!(Run::merge(&tables, 30), Run::merge(&memory, 30));

        assert!(StoredRuns::new(BITS, TABLES, &words[1..], &rooms).is_none());
    }

    #[test]
    fn damaged_runs_merge_into_some_run() {
        let (run, norms) = run(0, 12);
        let words = encode(BITS, TABLES, Some(&run), &norms, 12);
        for damaged in [vec![0xffff; words.len()], vec![7; words.len()], vec![0; words.len()]] {
            let stored = StoredRuns::new(BITS, TABLES, &damaged, &[12]).expect("as many as they need");
            let tables: Vec<Tables<'_>> = stored.iter().map(|(tables, _)| tables).collect();
            assert_eq!(Run::merge(&tables, 12).rows(), 12);
        }
    }
}
