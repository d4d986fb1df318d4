//! The columns of a session's store: rows, and what the indexes keep of them.

use std::path::Path;

use kv_store::{Access, Column, Counts, Pattern, SEGMENT_ROWS, Spec, StoreError};
use lsh_attn::rows::{RowType, Rows};
use lsh_attn::sketch::{BLOCK_KEYS, SKETCH_BITS, SketchPlan, VALUE_BITS, value_bits};
use lsh_attn::stored_runs::{StoredRuns, stored_groups};

use crate::config::{Attention, Shape};
use crate::index::{FLUSH_ROWS, MOST_RUNS};

/// K and V of each token.
const ROWS: usize = 0;
/// The centre of a segment's codes, and that of its tables: `[head_dim]` in f32.
const SKETCH_CENTRES: usize = 1;
const LSH_CENTRES: usize = 2;
/// Blocks of codes, one column for each code length. One that is not used has no files.
const CODES: usize = 3;
/// Blocks of values' codes, likewise.
const VALUE_CODES: usize = CODES + SKETCH_BITS.len();
/// Runs of tables and norms; only where the index is of tables.
const TABLES: usize = VALUE_CODES + VALUE_BITS.len();

/// Rows and index of every layer and KV head, in mapped files.
#[derive(Debug)]
pub(crate) struct Storage {
    pub store: kv_store::SessionStore,
    layout: Layout,
}

/// What decides how long the elements of columns are, and which regions have them.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub shape: Shape,
    pub row_type: RowType,
    /// K and L of tables that outlast the process.
    pub tables: Option<(usize, usize)>,
    /// Local layers have no index.
    pub attention: Attention,
}

/// Which centres.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Centres {
    Sketch,
    Lsh,
}

impl Centres {
    fn column(self) -> usize {
        match self {
            Centres::Sketch => SKETCH_CENTRES,
            Centres::Lsh => LSH_CENTRES,
        }
    }
}

/// Codes of what.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Codes {
    Keys,
    Values,
}

impl Codes {
    /// The column of those where keys' have `bits` bits.
    fn column(self, bits: u32) -> usize {
        let place = |lengths: &[u32], bits| {
            lengths.iter().position(|&known| known == bits).expect("a length that codes have")
        };
        match self {
            Codes::Keys => CODES + place(&SKETCH_BITS, bits),
            Codes::Values => VALUE_CODES + place(&VALUE_BITS, value_bits(bits)),
        }
    }
}

impl Storage {
    /// An empty one that vanishes with the process.
    pub fn ephemeral(directory: &Path, layout: Layout) -> Result<Storage, StoreError> {
        Ok(Storage { store: kv_store::SessionStore::ephemeral(directory, layout.spec())?, layout })
    }

    /// A new one in a folder that is not there yet, or is empty.
    pub fn create(
        directory: &Path,
        layout: Layout,
        fingerprint: &[(String, String)],
    ) -> Result<Storage, StoreError> {
        Ok(Storage { store: kv_store::SessionStore::create(directory, layout.spec(), fingerprint)?, layout })
    }

    /// The one in a folder.
    pub fn open(
        directory: &Path,
        layout: Layout,
        fingerprint: &[(String, String)],
        access: Access,
    ) -> Result<Storage, StoreError> {
        let store = kv_store::SessionStore::open(directory, layout.spec(), fingerprint, access)?;
        Ok(Storage { store, layout })
    }

    /// Makes room for tables of K bits and L tables, or for none. A session in a folder has the room that it was made with.
    pub fn set_tables(&mut self, tables: Option<(usize, usize)>) -> Result<(), StoreError> {
        if self.layout.tables != tables && self.store.fingerprint().is_empty() {
            let layout = Layout { tables, ..self.layout.clone() };
            self.store.replace_columns(TABLES, &layout.spec())?;
            self.layout = layout;
        }
        Ok(())
    }

    /// How rows are stored.
    pub fn row_type(&self) -> RowType {
        self.layout.row_type
    }

    /// The rows of a KV head in one segment; none in a segment that is not there.
    pub fn rows(&self, layer: usize, kv_head: usize, segment: usize) -> Rows<'_> {
        let stored = self.store.read(ROWS, self.region(layer, kv_head), segment);
        Rows::new(self.layout.row_type, self.layout.shape.head_dim, bytemuck::cast_slice(stored))
    }

    /// The rows of a KV head, segment by segment.
    pub fn segments(&self, layer: usize, kv_head: usize) -> impl Iterator<Item = Rows<'_>> {
        (0..self.store.segments()).map(move |segment| self.rows(layer, kv_head, segment))
    }

    /// Writes rows `[n, row_type.units(head_dim)]` from a token's position on.
    pub fn write_rows(
        &mut self,
        layer: usize,
        kv_head: usize,
        position: usize,
        rows: &[u16],
    ) -> Result<(), StoreError> {
        self.store.write(ROWS, self.region(layer, kv_head), position, bytemuck::cast_slice(rows))
    }

    /// The blocks of codes in one segment, where keys' have `bits` bits.
    pub fn codes(&self, of: Codes, bits: u32, (layer, kv_head, segment): (usize, usize, usize)) -> &[u8] {
        self.store.read(of.column(bits), self.index_region(layer, kv_head), segment)
    }

    /// Writes blocks of codes from a segment's block `block` on.
    pub fn write_codes(
        &mut self,
        of: Codes,
        bits: u32,
        (layer, kv_head, segment): (usize, usize, usize),
        block: usize,
        blocks: &[u8],
    ) -> Result<(), StoreError> {
        let position = segment * (SEGMENT_ROWS / BLOCK_KEYS) + block;
        self.store.write(of.column(bits), self.index_region(layer, kv_head), position, blocks)
    }

    /// The centre `[head_dim]` of a segment, if it has one.
    pub fn centre(&self, of: Centres, layer: usize, kv_head: usize, segment: usize) -> Option<Vec<f32>> {
        let bytes = self.store.read(of.column(), self.index_region(layer, kv_head), segment);
        (!bytes.is_empty()).then(|| floats(bytes))
    }

    /// Writes the centre of a segment that has none.
    pub fn write_centre(
        &mut self,
        of: Centres,
        (layer, kv_head, segment): (usize, usize, usize),
        centre: &[f32],
    ) -> Result<(), StoreError> {
        let bytes: Vec<u8> = centre.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.store.write(of.column(), self.index_region(layer, kv_head), segment, &bytes)
    }

    /// Groups of words that a run of tables takes with room for `room` rows; none if there is no place for tables.
    pub fn run_groups(&self, room: usize) -> Option<usize> {
        self.layout.tables.map(|(k, l)| stored_groups(k, l, room))
    }

    /// Groups of words that a region has room for in a segment.
    pub fn most_groups(&self) -> usize {
        self.store.spec().columns.get(TABLES).map_or(0, |column| column.per_segment)
    }

    /// Stores a run of tables from a segment's group `group` on. Runs have room for equally many rows in all regions.
    pub fn write_run(
        &mut self,
        (layer, kv_head, segment): (usize, usize, usize),
        group: usize,
        run: &[u16],
    ) -> Result<(), StoreError> {
        let position = segment * self.most_groups() + group;
        self.store.write(TABLES, self.index_region(layer, kv_head), position, bytemuck::cast_slice(run))
    }

    /// The runs of tables of a segment that have these rooms, if the store has just these, or needs none.
    pub fn runs<'a>(
        &'a self,
        (layer, kv_head, segment): (usize, usize, usize),
        rooms: &'a [usize],
    ) -> Option<StoredRuns<'a>> {
        let Some((k, l)) = self.layout.tables.filter(|_| !rooms.is_empty()) else {
            return Some(StoredRuns::NONE);
        };
        let stored = self.store.read(TABLES, self.index_region(layer, kv_head), segment);
        if stored.is_empty() { None } else { StoredRuns::new(k, l, bytemuck::cast_slice(stored), rooms) }
    }

    /// Forgets the runs of a segment in all regions. What is committed stays as it is until the next commit.
    pub fn drop_runs(&mut self, segment: usize) -> Result<(), StoreError> {
        let mut counts = self.store.common_counts();
        counts.set(segment, TABLES, 0);
        self.store.truncate(self.store.token_count(), &counts)
    }

    /// Counts of `tokens` rows, and of no index yet.
    pub fn counts(&self, tokens: usize) -> Counts {
        let mut counts = Counts::new(self.store.spec().columns.len());
        counts.fill(ROWS, SEGMENT_ROWS, tokens);
        counts
    }

    /// Bytes of all rows.
    pub fn row_bytes(&self, tokens: &[usize]) -> u64 {
        let row = self.layout.row_type.row_bytes(self.layout.shape.head_dim);
        tokens.iter().map(|&tokens| (tokens * self.layout.shape.kv_heads * row) as u64).sum()
    }

    fn region(&self, layer: usize, kv_head: usize) -> usize {
        layer * self.layout.shape.kv_heads + kv_head
    }

    /// Where the index of a layer is that attends everything.
    fn index_region(&self, layer: usize, kv_head: usize) -> usize {
        let before = (0..layer).filter(|&layer| !self.layout.attention.is_local(layer)).count();
        before * self.layout.shape.kv_heads + kv_head
    }
}

/// Numbers as they are stored: f32, little-endian.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    bytes.chunks_exact(size_of::<f32>()).map(number).collect()
}

/// Notes in `counts` a segment's centre, and its blocks of codes: of keys, and with `residual` of values too.
pub(crate) fn count_sketch(
    counts: &mut Counts,
    (bits, residual): (u32, bool),
    segment: usize,
    blocks: usize,
) {
    counts.set(segment, SKETCH_CENTRES, 1);
    counts.set(segment, Codes::Keys.column(bits), blocks);
    if residual {
        counts.set(segment, Codes::Values.column(bits), blocks);
    }
}

/// Notes in `counts` that a segment's tables have a centre.
pub(crate) fn count_lsh(counts: &mut Counts, segment: usize) {
    counts.set(segment, LSH_CENTRES, 1);
}

/// Notes in `counts` the groups of words that a segment's runs of tables have.
pub(crate) fn count_runs(counts: &mut Counts, segment: usize, groups: usize) {
    counts.set(segment, TABLES, groups);
}

impl Layout {
    fn spec(&self) -> Spec {
        let Layout { shape, row_type, tables, ref attention } = *self;
        let column = |name: &str, element_bytes, per_segment, pattern| Column {
            name: name.to_owned(),
            element_bytes,
            per_segment,
            pattern,
        };
        let centre = shape.head_dim * size_of::<f32>();
        let mut columns = vec![
            column("rows", row_type.row_bytes(shape.head_dim), SEGMENT_ROWS, Pattern::Random),
            column("sketch-centres", centre, 1, Pattern::Random),
            column("lsh-centres", centre, 1, Pattern::Random),
        ];
        for (name, lengths) in [("codes", &SKETCH_BITS[..]), ("value-codes", &VALUE_BITS[..])] {
            columns.extend(lengths.iter().map(|&bits| {
                let block = SketchPlan::new(shape.head_dim, bits, 0).block_bytes();
                column(&format!("{name}-{bits}"), block, SEGMENT_ROWS / BLOCK_KEYS, Pattern::Sequential)
            }));
        }
        if let Some((k, l)) = tables {
            let most = stored_groups(k, l, SEGMENT_ROWS) + (MOST_RUNS - 1) * stored_groups(k, l, FLUSH_ROWS);
            columns.push(column("lsh-tables", size_of::<u16>() * l, most, Pattern::Random));
        }
        let mut spec = Spec::new(shape.layers * shape.kv_heads, columns);
        let local = (0..shape.layers).filter(|&layer| attention.is_local(layer)).count();
        if local > 0 {
            // A column must be in one region at least: where no layer has an index, those stay empty.
            let indexed = (shape.layers - local).max(1) * shape.kv_heads;
            spec.column_regions = vec![indexed; spec.columns.len()];
            spec.column_regions[ROWS] = spec.regions;
        }
        spec
    }
}
