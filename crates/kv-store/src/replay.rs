//! Applies a journal to what its manifest says.

use std::path::Path;

use crate::StoreError;
use crate::format::Change;
use crate::journal::{Entry, Scan, change_bytes};
use crate::manifest::Manifest;
use crate::spec::Lane;

/// What one record does, piece by piece.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// There are so many segments now; new ones are empty, and those beyond are gone.
    Segments(usize),
    /// A column's new count in a segment, and its new elements, region after region.
    Change(Change, &'a [u8]),
}

/// What was committed last.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    /// Elements of each region, for each segment and lane.
    pub counts: Vec<Vec<usize>>,
    pub state: Vec<u8>,
}

/// Goes through the records and tells `apply` what each does, once it is known to fit.
///
/// # Errors
/// [`StoreError::Corrupt`] if a record does not fit what is before it, and whatever `apply` says.
pub(crate) fn replay<'a>(
    path: &Path,
    manifest: &Manifest,
    lanes: &[Lane],
    scan: &Scan<'a>,
    mut apply: impl FnMut(Step<'a>) -> Result<(), StoreError>,
) -> Result<Committed, StoreError> {
    let mut counts: Vec<Vec<usize>> =
        manifest.segments.iter().map(|entry| entry.cells.iter().map(|cell| cell.count).collect()).collect();
    let mut state = &manifest.state;
    for Entry { record, elements, offset } in &scan.entries {
        let wrong =
            || StoreError::corrupt(path, *offset, "a record does not fit what was committed before it");
        if record.kept > counts.len() || record.segments > record.kept + record.changes.len() {
            return Err(wrong());
        }
        for segments in [record.kept, record.segments] {
            counts.resize_with(segments, || vec![0; lanes.len()]);
            apply(Step::Segments(segments))?;
        }
        let mut rest = *elements;
        for change in &record.changes {
            let &Change { segment, lane: number, keep, count } = change;
            let lane = lanes.get(number).ok_or_else(wrong)?;
            let current = counts.get_mut(segment).ok_or_else(wrong)?;
            // Elements that some manifest has named are never written again in the same file.
            let thawed = keep == count || keep >= manifest.cell(segment, number).frozen;
            if keep > current[number] || count > lane.per_segment || !thawed {
                return Err(wrong());
            }
            let bytes = change_bytes(change, lane.regions, lane.element_bytes).ok_or_else(wrong)?;
            let (now, later) = rest.split_at_checked(bytes).ok_or_else(wrong)?;
            current[number] = count;
            rest = later;
            apply(Step::Change(*change, now))?;
        }
        state = &record.state;
    }
    Ok(Committed { counts, state: state.clone() })
}
