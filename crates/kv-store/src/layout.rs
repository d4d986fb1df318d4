//! Where a row is: which region, and how far into a segment's file.

use crate::StoreError;

/// Rows of a segment: consecutive token positions of one (layer, KV head).
pub const SEGMENT_ROWS: usize = 32_768;

/// The shape of a model's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Layers of the model.
    pub layers: usize,
    /// KV heads of a layer.
    pub kv_heads: usize,
    /// Elements of a head: a row has as many of K, then as many of V.
    pub head_dim: usize,
}

impl Layout {
    /// Regions: one for each KV head of each layer.
    pub fn regions(&self) -> usize {
        self.layers * self.kv_heads
    }

    /// Elements of a row, K and V side by side.
    pub fn row_elements(&self) -> usize {
        2 * self.head_dim
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.row_elements() * size_of::<u16>()
    }

    /// The region's place among the regions of a file.
    pub(crate) fn region(&self, layer: usize, kv_head: usize) -> Result<usize, StoreError> {
        if layer < self.layers && kv_head < self.kv_heads {
            Ok(layer * self.kv_heads + kv_head)
        } else {
            Err(StoreError::Region { layer, kv_head, layout: *self })
        }
    }

    /// Bytes of a file that holds `segment_rows` rows of every region, which is where all other sizes get their
    /// proof that they do not overflow.
    pub(crate) fn file_bytes(&self, segment_rows: usize) -> Result<usize, StoreError> {
        [self.layers, self.kv_heads, segment_rows, 2, self.head_dim, size_of::<u16>()]
            .into_iter()
            .try_fold(1_usize, usize::checked_mul)
            .filter(|bytes| (1..=isize::MAX as usize).contains(bytes))
            .ok_or(StoreError::Layout(*self))
    }
}
