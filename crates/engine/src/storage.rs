//! The columns of a session's store: rows, and what the indexes keep of them.

use std::path::Path;

use kv_store::{Access, Column, Counts, Pattern, SEGMENT_ROWS, Spec, StoreError};
use lsh_attn::rows::{RowType, Rows};
use lsh_attn::sketch::{BLOCK_KEYS, SKETCH_BITS, SketchPlan};

use crate::config::Shape;

/// K and V of each token.
const ROWS: usize = 0;
/// The centre of a segment's codes, and that of its tables: `[head_dim]` in f32.
const SKETCH_CENTRES: usize = 1;
const LSH_CENTRES: usize = 2;
/// Blocks of codes, one column for each code length. One that is not used has no files.
const CODES: usize = 3;

/// Rows and index of every layer and KV head, in mapped files.
#[derive(Debug)]
pub(crate) struct Storage {
    pub store: kv_store::SessionStore,
    shape: Shape,
    row_type: RowType,
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

impl Storage {
    /// An empty one that vanishes with the process.
    pub fn ephemeral(directory: &Path, shape: Shape, row_type: RowType) -> Result<Storage, StoreError> {
        let store = kv_store::SessionStore::ephemeral(directory, spec(shape, row_type))?;
        Ok(Storage { store, shape, row_type })
    }

    /// A new one in a folder that is not there yet, or is empty.
    pub fn create(
        directory: &Path,
        (shape, row_type): (Shape, RowType),
        fingerprint: &[(String, String)],
    ) -> Result<Storage, StoreError> {
        let store = kv_store::SessionStore::create(directory, spec(shape, row_type), fingerprint)?;
        Ok(Storage { store, shape, row_type })
    }

    /// The one in a folder.
    pub fn open(
        directory: &Path,
        (shape, row_type): (Shape, RowType),
        fingerprint: &[(String, String)],
        access: Access,
    ) -> Result<Storage, StoreError> {
        let store = kv_store::SessionStore::open(directory, spec(shape, row_type), fingerprint, access)?;
        Ok(Storage { store, shape, row_type })
    }

    /// How rows are stored.
    pub fn row_type(&self) -> RowType {
        self.row_type
    }

    /// The rows of a KV head in one segment; none in a segment that is not there.
    pub fn rows(&self, layer: usize, kv_head: usize, segment: usize) -> Rows<'_> {
        let stored = self.store.read(ROWS, self.region(layer, kv_head), segment);
        Rows::new(self.row_type, self.shape.head_dim, bytemuck::cast_slice(stored))
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

    /// The blocks of codes of `bits` bits in one segment.
    pub fn codes(&self, bits: u32, layer: usize, kv_head: usize, segment: usize) -> &[u8] {
        self.store.read(codes(bits), self.region(layer, kv_head), segment)
    }

    /// Writes blocks of codes from a segment's block `block` on.
    pub fn write_codes(
        &mut self,
        bits: u32,
        (layer, kv_head, segment): (usize, usize, usize),
        block: usize,
        blocks: &[u8],
    ) -> Result<(), StoreError> {
        let position = segment * (SEGMENT_ROWS / BLOCK_KEYS) + block;
        self.store.write(codes(bits), self.region(layer, kv_head), position, blocks)
    }

    /// The centre `[head_dim]` of a segment, if it has one.
    pub fn centre(&self, of: Centres, layer: usize, kv_head: usize, segment: usize) -> Option<Vec<f32>> {
        let bytes = self.store.read(of.column(), self.region(layer, kv_head), segment);
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
        self.store.write(of.column(), self.region(layer, kv_head), segment, &bytes)
    }

    /// Counts of `tokens` rows, and of no index yet.
    pub fn counts(&self, tokens: usize) -> Counts {
        let mut counts = Counts::new(CODES + SKETCH_BITS.len());
        counts.fill(ROWS, SEGMENT_ROWS, tokens);
        counts
    }

    /// Bytes of all rows.
    pub fn row_bytes(&self, tokens: &[usize]) -> u64 {
        let row = self.row_type.row_bytes(self.shape.head_dim);
        tokens.iter().map(|&tokens| (tokens * self.shape.kv_heads * row) as u64).sum()
    }

    fn region(&self, layer: usize, kv_head: usize) -> usize {
        layer * self.shape.kv_heads + kv_head
    }
}

/// Numbers as they are stored: f32, little-endian.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    bytes.chunks_exact(size_of::<f32>()).map(number).collect()
}

/// Notes in `counts` a segment's centre, and its blocks of codes.
pub(crate) fn count_sketch(counts: &mut Counts, bits: u32, segment: usize, blocks: usize) {
    counts.set(segment, SKETCH_CENTRES, 1);
    counts.set(segment, codes(bits), blocks);
}

/// Notes in `counts` that a segment's tables have a centre.
pub(crate) fn count_lsh(counts: &mut Counts, segment: usize) {
    counts.set(segment, LSH_CENTRES, 1);
}

/// The column of codes of `bits` bits.
fn codes(bits: u32) -> usize {
    CODES + SKETCH_BITS.iter().position(|&known| known == bits).expect("a length that codes have")
}

fn spec(shape: Shape, row_type: RowType) -> Spec {
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
    columns.extend(SKETCH_BITS.map(|bits| {
        let block = SketchPlan::new(shape.head_dim, bits, 0).block_bytes();
        column(&format!("codes-{bits}"), block, SEGMENT_ROWS / BLOCK_KEYS, Pattern::Sequential)
    }));
    Spec::new(shape.layers * shape.kv_heads, columns)
}
