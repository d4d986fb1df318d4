//! The `lsh` index of one segment: tables over its centred keys, grown as rows arrive.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::collisions::Collisions;
use crate::hash::{HashPlan, Hasher, LANES};
use crate::kernels::Kernels;
use crate::rows::Rows;
use crate::stored_runs::StoredRuns;
use crate::tables::{Run, Tables};

/// A run is merged into the one before it once it has a quarter of that one's rows. A segment then has at most
/// a handful of runs, and a row is moved a few times in its life.
const MERGE_RATIO: usize = 4;

/// Tables over rows `first..end` of a segment, with what the estimator needs of each key. Those of its first rows may be
/// stored elsewhere.
///
/// Keys are hashed less a centre: theta is the angle between q and k - c. Any centre is correct, since q.k =
/// q.(k - c) + q.c; one near the keys' mean is what makes angles differ (keys of trained models share a large
/// common part). The centre is the mean of the rows that are indexed first, and stays.
#[derive(Clone, Debug)]
pub struct SegmentIndex {
    first: usize,
    centre: Vec<f32>,
    /// |k - c| of each indexed row. f16 moves a cosine by at most 2.5e-4 of itself, ln u by about 1e-3.
    norms: Vec<f16>,
    /// Tables of the last rows.
    runs: Vec<Run>,
}

impl SegmentIndex {
    /// An empty index whose first row will be `first` (rows before it are never sampled).
    pub fn new(first: usize) -> SegmentIndex {
        SegmentIndex { first, centre: Vec::new(), norms: Vec::new(), runs: Vec::new() }
    }

    /// An index around a centre that an index of the same rows had before, with the norms of rows whose tables are stored.
    pub fn resumed(first: usize, centre: Vec<f32>, norms: Vec<f16>) -> SegmentIndex {
        SegmentIndex { centre, norms, ..SegmentIndex::new(first) }
    }

    /// Position within the segment after the last indexed row.
    pub fn end(&self) -> usize {
        self.first + self.norms.len()
    }

    /// Position within the segment of the first indexed row.
    pub fn first(&self) -> usize {
        self.first
    }

    /// Bytes of tables, norms and centre.
    pub fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.tables().bytes()).sum::<usize>()
            + 2 * self.norms.len()
            + 4 * self.centre.len()
    }

    /// Indexes the rows from [`SegmentIndex::end`] up to `end`. `rows` are the segment's rows from its start, of
    /// head dimension `plan.dim()`.
    pub fn extend(&mut self, kernels: Kernels, plan: &HashPlan, rows: Rows<'_>, end: usize) {
        let start = self.end();
        if end <= start {
            return;
        }
        let dim = plan.dim();
        if self.centre.is_empty() {
            self.centre = rows.slice(start..end).mean_key();
        }
        let mut hasher = Hasher::new(plan);
        let count = end - start;
        let mut codes = vec![0; plan.tables() * count];
        let mut centred = vec![0.0; LANES * dim];
        for group in (start..end).step_by(LANES) {
            let lanes = LANES.min(end - group);
            for (lane, centred) in centred.chunks_exact_mut(dim).enumerate().take(lanes) {
                rows.key(group + lane, centred);
                for (x, c) in centred.iter_mut().zip(&self.centre) {
                    *x -= c;
                }
                let norm = centred.iter().map(|x| x * x).sum::<f32>().sqrt();
                self.norms.push(f16::from_f32(norm));
            }
            let hashed = hasher.hash(kernels, plan, lanes, |lane, j| centred[lane * dim + j]);
            for (table, hashed) in hashed.iter().enumerate() {
                codes[table * count + group - start..][..lanes].copy_from_slice(&hashed[..lanes]);
            }
        }
        self.push(Run::build(start, count, plan.buckets(), &codes));
    }

    fn push(&mut self, run: Run) {
        self.runs.push(run);
        while let [.., before, last] = self.runs.as_slice()
            && last.rows() * MERGE_RATIO >= before.rows()
        {
            let merged = Run::merge(&[before.tables(), last.tables()], before.rows() + last.rows());
            self.runs.truncate(self.runs.len() - 2);
            self.runs.push(merged);
        }
    }

    /// The centre c `[dim]`; empty while nothing is indexed.
    pub fn centre(&self) -> &[f32] {
        &self.centre
    }

    /// |k - c| of each indexed row.
    pub fn norms(&self) -> &[f16] {
        &self.norms
    }

    /// Rows whose tables are here: the last ones.
    pub fn rows_here(&self) -> usize {
        self.runs.iter().map(Run::rows).sum()
    }

    /// And of those whose tables are here.
    pub fn norms_here(&self) -> &[f16] {
        &self.norms[self.norms.len() - self.rows_here()..]
    }

    /// Takes all tables here together into one run, after those of `stored` if there are some.
    pub fn gather(&mut self, stored: StoredRuns<'_>) {
        let parts: Vec<Tables<'_>> =
            stored.iter().map(|(tables, _)| tables).chain(self.runs.iter().map(Run::tables)).collect();
        let rows = if stored.is_empty() { self.rows_here() } else { self.norms.len() };
        if parts.len() > 1 || !stored.is_empty() {
            self.runs = vec![Run::merge(&parts, rows)];
        }
    }

    /// The one run that [`SegmentIndex::gather`] leaves; none if no tables are here.
    pub fn run(&self) -> Option<&Run> {
        self.runs.first()
    }

    /// Lets the tables here go, which are stored now.
    pub fn release(&mut self) {
        self.runs.clear();
    }

    /// What sampling needs, with the tables that are stored.
    pub fn view<'a>(&'a self, stored: StoredRuns<'a>) -> SegmentView<'a> {
        SegmentView { first: self.first, centre: &self.centre, norms: &self.norms, stored, runs: &self.runs }
    }
}

/// The index of one segment, wherever it is.
#[derive(Clone, Copy, Debug)]
pub struct SegmentView<'a> {
    first: usize,
    centre: &'a [f32],
    norms: &'a [f16],
    stored: StoredRuns<'a>,
    runs: &'a [Run],
}

impl<'a> SegmentView<'a> {
    /// An index all of whose tables are stored in one run: its centre `[dim]` and its rows from `first` on.
    pub fn stored(first: usize, centre: &'a [f32], stored: StoredRuns<'a>) -> SegmentView<'a> {
        let norms = stored.iter().next().map_or(&[][..], |(_, norms)| norms);
        SegmentView { first, centre, norms, stored, runs: &[] }
    }

    /// Position within the segment of the first indexed row.
    pub fn first(&self) -> usize {
        self.first
    }

    /// And after the last one.
    pub fn end(&self) -> usize {
        self.first + self.norms.len()
    }

    /// Ids of the rows that collide with `codes` (one a table) in at least two tables, ascending, appended to
    /// `ids`. Calls `beside` between buckets, once for each table of a run.
    pub fn sample(
        &self,
        kernels: Kernels,
        codes: &[u16],
        collisions: &mut Collisions,
        ids: &mut Vec<u16>,
        mut beside: impl FnMut(),
    ) {
        let mut record = |tables: Tables<'_>| {
            tables.each_bucket(codes, |bucket| {
                beside();
                collisions.record(bucket);
            });
        };
        self.stored.iter().for_each(|(tables, _)| record(tables));
        self.runs.iter().for_each(|run| record(run.tables()));
        collisions.drain_into(kernels, ids);
        // Damaged tables may have ids that are no row's.
        ids.truncate(ids.partition_point(|&id| usize::from(id) < self.end()));
    }

    /// The centre c `[dim]`; empty while nothing is indexed.
    pub fn centre(&self) -> &'a [f32] {
        self.centre
    }

    /// |k - c| of indexed rows, in the place of what `norms` had.
    pub fn norms_of(&self, ids: &[u16], norms: &mut Vec<f32>) {
        norms.clear();
        norms.resize(ids.len(), 0.0);
        let mut halves = [f16::ZERO; LANES];
        for (ids, norms) in ids.chunks(LANES).zip(norms.chunks_mut(LANES)) {
            for (half, &id) in halves.iter_mut().zip(ids) {
                *half = self.norms[usize::from(id).saturating_sub(self.first)];
            }
            // Many at once: the processor's instruction for one is behind a call.
            halves[..ids.len()].convert_to_f32_slice(norms);
        }
    }
}
