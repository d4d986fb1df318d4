//! Checksums of a segment's elements, one for each extent.

use std::ops::Range;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use crate::StoreError;
use crate::format::{self, HEADER_BYTES, Header, Kind};
use crate::manifest::{SegmentEntry, read_named};
use crate::spec::Lane;

/// Checksums of one column in one segment, `[regions, extents]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct LaneSums {
    /// Elements of each region that they cover; the last extent ends there.
    pub count: usize,
    pub sums: Vec<u64>,
}

impl LaneSums {
    /// The bytes of an extent in the column's file.
    pub fn extent(lane: &Lane, count: usize, region: usize, extent: usize) -> Range<usize> {
        let begin = extent * lane.extent_bytes;
        let end = (begin + lane.extent_bytes).min(count * lane.element_bytes);
        lane.offset(region, 0) + begin..lane.offset(region, 0) + end
    }

    /// The checksums of `count` elements of each region, from `old` ones where those cover whole extents of the first
    /// `same` elements, which have not changed since.
    ///
    /// An extent that was partly covered and goes on is first checked, so that damage to it is not sealed in.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if such an extent has changed.
    pub fn renew<'a>(
        old: &LaneSums,
        lane: &Lane,
        (same, count): (usize, usize),
        path: &Path,
        read: impl Fn(Range<usize>) -> &'a [u8],
    ) -> Result<LaneSums, StoreError> {
        let (before, after) = (lane.extents(old.count), lane.extents(count));
        let same_bytes = same.min(count) * lane.element_bytes;
        let mut sums = Vec::with_capacity(lane.regions * after);
        for region in 0..lane.regions {
            for extent in 0..after {
                let range = LaneSums::extent(lane, count, region, extent);
                let end = range.end - lane.offset(region, 0);
                if end <= same_bytes && (range.len() == lane.extent_bytes || old.count == count) {
                    sums.push(old.sums[region * before + extent]);
                    continue;
                }
                if extent < before && same == old.count {
                    let known = LaneSums::extent(lane, old.count, region, extent);
                    if xxh3_64(read(known.clone())) != old.sums[region * before + extent] {
                        return Err(StoreError::corrupt(
                            path,
                            known.start as u64,
                            "an extent's checksum is wrong",
                        ));
                    }
                }
                sums.push(xxh3_64(read(range)));
            }
        }
        Ok(LaneSums { count, sums })
    }
}

/// The bytes of a checksum file, and the digest that the manifest keeps of it.
pub(crate) fn encode(lanes: &[LaneSums], generation: u64) -> (Vec<u8>, u64) {
    let body: Vec<u8> = lanes.iter().flat_map(|lane| &lane.sums).flat_map(|sum| sum.to_le_bytes()).collect();
    let header = Header::of(Kind::Sums, 0, generation, 0, &body);
    ([&header.encode()[..], &body].concat(), header.body_sum)
}

/// Reads a segment's checksums.
///
/// # Errors
/// If the file is missing, damaged, or not the one that the manifest names.
pub(crate) fn read(
    directory: &Path,
    segment: usize,
    entry: &SegmentEntry,
    lanes: &[Lane],
) -> Result<Vec<LaneSums>, StoreError> {
    let path = format::sums_path(directory, segment, entry.sums_generation);
    let bytes = read_named(&path)?;
    let (header, body) = Header::whole_file(&path, &bytes, Kind::Sums)?;
    let expected: usize =
        entry.cells.iter().zip(lanes).map(|(cell, lane)| lane.regions * lane.extents(cell.count)).sum();
    if header.body_sum != entry.sums_digest
        || header.generation != entry.sums_generation
        || body.len() != expected * size_of::<u64>()
    {
        return Err(StoreError::corrupt(
            &path,
            HEADER_BYTES as u64,
            "these are not the checksums of this segment",
        ));
    }
    let mut sums = body.chunks_exact(size_of::<u64>()).map(|bytes| format::u64_at(bytes, 0));
    let lane_sums = |(cell, lane): (&crate::manifest::CellEntry, &Lane)| LaneSums {
        count: cell.count,
        sums: sums.by_ref().take(lane.regions * lane.extents(cell.count)).collect(),
    };
    Ok(entry.cells.iter().zip(lanes).map(lane_sums).collect())
}
