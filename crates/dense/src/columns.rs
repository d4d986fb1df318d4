//! What goes into the products of a chunk: activations with a token a column, in panels of columns side by side.

use lsh_attn::kernels::PANEL;

use crate::activations::BLOCK;
use crate::matrix::Cores;

/// The greatest quant of a column. The products of a block with rows of [`crate::quant_rows::QuantRows`] then fit into 32 bits.
pub(crate) const GREATEST: f32 = 16_383.0;

/// Activations `[features, n]`, n of whole panels: rounded to bf16, or to quants where a product is of whole numbers.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    /// `[panels, features / 2, PANEL]`: of each column two features in bf16, the first in the lower half. Empty where there are blocks.
    pub(crate) pairs: Vec<u32>,
    /// `[panels, features / BLOCK]`; empty where there are pairs.
    pub(crate) blocks: Vec<ColumnBlock>,
}

/// A block of features in each column of a panel.
#[derive(Clone, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct ColumnBlock {
    /// Of each column two quants, the first in the lower half: value / scale, rounded, [`GREATEST`] at most.
    pub(crate) pairs: [[u32; PANEL]; BLOCK / 2],
    /// The values of quant 1.
    pub(crate) scales: [f32; PANEL],
    /// The sums of the values, for weights with an offset.
    pub(crate) sums: [f32; PANEL],
}

/// All features of a panel's columns, to be filled.
pub(crate) enum Panel<'a> {
    /// `[features / 2, PANEL]`, bf16
    Pairs(&'a mut [u32]),
    /// `[features / BLOCK]`
    Blocks(&'a mut [ColumnBlock]),
}

impl Columns {
    /// Makes `features` of `n` columns, panel by panel, of what `fill(first column, panel)` writes: quants, or bf16.
    pub(crate) fn fill(
        &mut self,
        cores: Cores<'_>,
        (features, n): (usize, usize),
        quants: bool,
        fill: impl Fn(usize, &mut Panel<'_>) + Sync,
    ) {
        let (pairs, blocks) = if quants { (0, features / BLOCK * n / PANEL) } else { (features / 2 * n, 0) };
        self.pairs.resize(pairs, 0);
        self.blocks.resize(blocks, ColumnBlock::default());
        let pairs = self.pairs.chunks_exact_mut(features / 2 * PANEL).map(Panel::Pairs);
        let blocks = self.blocks.chunks_exact_mut((features / BLOCK).max(1)).map(Panel::Blocks);
        let mut panels: Vec<_> = pairs.chain(blocks).enumerate().collect();
        cores.team.each_mut(&mut panels, |(number, panel)| fill(*number * PANEL, panel));
    }

    /// Whether they are quants.
    pub(crate) fn are_quants(&self) -> bool {
        !self.blocks.is_empty()
    }
}
