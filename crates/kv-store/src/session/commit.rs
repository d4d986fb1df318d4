//! Commits: a record in the journal, or a flush where that is cheaper or needed.

use crate::counts::Counts;
use crate::error::failed;
use crate::format::{Change, HEADER_BYTES, Record, STATE_LIMIT};
use crate::session::{Home, SessionStore, Writer};
use crate::{Spec, StoreError};

/// A commit with more bytes than this part of the journal's limit goes straight to the column files, instead of being
/// written twice.
const JOURNAL_SHARE: u64 = 8;

impl SessionStore {
    /// Makes a state of the session last: `counts` elements of every region, all tokens, and `state`, which is the
    /// caller's. When it returns, the commit survives whatever happens to process and machine, and until then the one before
    /// does. Elements beyond `counts` stay where they are and are not committed.
    ///
    /// # Errors
    /// If `counts` are more than some region has, or less than is committed and was not truncated; if the state is longer
    /// than 64 KiB; if the disk is full, and then the session is as before the call, which may be tried again; if
    /// the disk fails, and then only opening the session again shows which of both commits it has.
    pub fn commit(&mut self, state: &[u8], counts: &Counts) -> Result<(), StoreError> {
        self.check_columns(counts)?;
        if state.len() > STATE_LIMIT {
            return Err(StoreError::Argument(format!(
                "a state of {} bytes; {STATE_LIMIT} are the most",
                state.len()
            )));
        }
        let targets = self.targets(counts)?;
        let used = |target: &Vec<usize>| target.iter().any(|&count| count > 0);
        let segments = targets.iter().rposition(used).map_or(0, |last| last + 1);
        let changes = self.changes(&targets[..segments]);
        match &mut self.home {
            Home::Reader(_) => return Err(StoreError::ReadOnly { path: self.directory.clone() }),
            Home::Ephemeral => self.accept(&targets, segments, state),
            Home::Writer(writer) => {
                writer.check()?;
                let before = (self.committed_segments, self.base_segments);
                let unchanged = changes.is_empty() && (segments, segments) == before && *state == *self.state;
                if unchanged && !writer.must_flush {
                    self.truncated = false;
                    return Ok(());
                }
                let bytes = record_bytes(&changes, &self.lanes, state.len());
                if writer.takes(&self.spec, bytes) {
                    let kept = self.base_segments.min(segments);
                    self.append(Record { kept, segments, state: state.to_vec(), changes }, bytes)?;
                    self.accept(&targets, segments, state);
                } else {
                    self.commit_by_flush(&targets, segments, state)?;
                }
            }
        }
        Ok(())
    }

    /// The counts to be committed, `[segments, lanes]`.
    fn targets(&self, counts: &Counts) -> Result<Vec<Vec<usize>>, StoreError> {
        let columns = self.spec.columns.len();
        let mut targets = Vec::with_capacity(self.segments.len());
        for index in 0..self.segments.len().max(counts.segments()) {
            let mut target: Vec<usize> = (0..columns).map(|column| counts.get(index, column)).collect();
            let cells = self.segments.get(index).map_or(&[][..], |segment| &segment.cells);
            target.push(cells.get(columns).map_or(0, |tokens| tokens.written[0]));
            for (column, &count) in target.iter().enumerate() {
                let (base, common) = cells.get(column).map_or((0, 0), |cell| (cell.base(), cell.common()));
                if count < base || count > common {
                    return Err(StoreError::Argument(format!(
                        "cannot commit {count} elements of {} in segment {index}: {base} are committed, and every \
                         region has {common}",
                        self.lanes[column].name
                    )));
                }
            }
            targets.push(target);
        }
        targets.truncate(self.segments.len());
        Ok(targets)
    }

    /// What a record has to say. The first lane of a new segment is always named, so that a record says how far it goes.
    fn changes(&self, targets: &[Vec<usize>]) -> Vec<Change> {
        let mut changes = Vec::new();
        for (segment, target) in targets.iter().enumerate() {
            for (lane, (cell, &count)) in self.segments[segment].cells.iter().zip(target).enumerate() {
                let new = lane == 0 && segment >= self.base_segments;
                let keep = cell.base();
                if count != keep || keep < cell.committed || new {
                    changes.push(Change { segment, lane, keep, count });
                }
            }
        }
        changes
    }

    /// Appends a record to the journal and returns once it is on the disk.
    fn append(&mut self, record: Record, bytes: u64) -> Result<(), StoreError> {
        let mut body = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
        body.resize(HEADER_BYTES, 0);
        record.encode(&mut body);
        for &Change { segment, lane: number, keep, count } in &record.changes {
            let lane = &self.lanes[number];
            for region in 0..if count > keep { lane.regions } else { 0 } {
                let elements = self.elements(segment, number, region, count);
                body.extend(&elements[keep * lane.element_bytes..]);
            }
        }
        let Home::Writer(writer) = &mut self.home else { unreachable!("only a writer has a journal") };
        let identity = writer.identity();
        let journal = &mut writer.journal;
        let block = identity.seal(journal.sequence, body);
        if let Err(error) = writer.backend.write_at(&journal.file, journal.end, &block) {
            // What was written of it ends the journal, and the next record goes over it, so that this may fail too.
            let _ = writer.backend.set_len(&journal.file, journal.end);
            return Err(StoreError::from_io(
                "append to the journal",
                &journal.path,
                block.len() as u64,
                error,
            ));
        }
        let synced = writer.backend.sync(&journal.file);
        if synced.is_err() {
            writer.broken = true;
        }
        synced.map_err(failed("sync the journal", &journal.path))?;
        // The mark tells damage from a torn write, should this record not be whole one day. The commit holds without it.
        let end = journal.end + block.len() as u64;
        let _ = writer.backend.write_at(&journal.file, end, &identity.mark(journal.sequence));
        journal.end = end + HEADER_BYTES as u64;
        journal.sequence += 1;
        Ok(())
    }

    /// Takes the targets over as what is committed.
    fn accept(&mut self, targets: &[Vec<usize>], segments: usize, state: &[u8]) {
        for (segment, target) in self.segments.iter_mut().zip(targets) {
            for (cell, &count) in segment.cells.iter_mut().zip(target) {
                cell.settle(count);
            }
        }
        (self.committed_segments, self.base_segments) = (segments, segments);
        self.truncated = false;
        self.state = state.to_vec();
    }

    /// Commits through the column files; without success everything is as before.
    fn commit_by_flush(
        &mut self,
        targets: &[Vec<usize>],
        segments: usize,
        state: &[u8],
    ) -> Result<(), StoreError> {
        let cells = self.segments.iter().flat_map(|segment| &segment.cells);
        let before: Vec<_> =
            cells.map(|cell| (cell.committed, cell.unchanged.clone(), cell.intact)).collect();
        let others = (self.committed_segments, self.base_segments, self.truncated, self.state.clone());
        self.accept(targets, segments, state);
        let flushed = self.flush_committed();
        if flushed.is_err() {
            let cells = self.segments.iter_mut().flat_map(|segment| &mut segment.cells);
            for (cell, before) in cells.zip(before) {
                (cell.committed, cell.unchanged, cell.intact) = before;
            }
            (self.committed_segments, self.base_segments, self.truncated, self.state) = others;
        }
        flushed
    }
}

impl Writer {
    /// Whether a record of so many bytes goes into the journal.
    fn takes(&self, spec: &Spec, bytes: u64) -> bool {
        let limit = spec.journal_limit;
        !self.must_flush && bytes <= limit / JOURNAL_SHARE && self.journal.end + bytes <= limit
    }
}

/// Bytes of a record, about.
fn record_bytes(changes: &[Change], lanes: &[crate::spec::Lane], state: usize) -> u64 {
    let elements: usize = changes
        .iter()
        .map(|change| {
            let lane = &lanes[change.lane];
            (change.count - change.keep) * lane.regions * lane.element_bytes
        })
        .sum();
    (3 * HEADER_BYTES + state + size_of_val(changes) + elements) as u64
}
