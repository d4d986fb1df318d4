//! What MatMulNBits makes of packed weights, by its definition, are the elements of the file's blocks.

use dense::{Matrix, NBits, WeightType};
use lsh_attn::mix::mix64;

const INPUTS: usize = 768;

/// Random bytes: every quant and scale, and now and then a scale that is not finite.
fn random(length: usize, seed: u64) -> Vec<u8> {
    (0..length as u64).map(|i| mix64(i << 8 | seed) as u8).collect()
}

/// The element at a row and an input by the operator's definition, and its offset.
fn element(packed: &NBits, row: usize, input: usize) -> (f64, f64) {
    let blocks = INPUTS / packed.block;
    let (block, i) = (input / packed.block, row * INPUTS + input);
    let quant = match packed.bits {
        8 => packed.quants[i],
        _ => packed.quants[i / 2] >> (4 * (i % 2)) & 15,
    };
    let middle = f64::from(1 << (packed.bits - 1));
    let offset = packed.offsets.as_ref().map_or(0.0, |offsets| offsets[block * packed.outputs + row]);
    let scale = f64::from(packed.scales[row * blocks + block]);
    (scale * (f64::from(quant) - middle) + f64::from(offset), f64::from(offset))
}

#[test]
fn packed_weights_are_the_blocks_elements() {
    for kind in WeightType::ALL.into_iter().filter(|kind| !kind.is_wide()) {
        let row_bytes = kind.row_bytes(INPUTS).expect("whole blocks");
        let bytes = [70, 1, 33].map(|rows| random(rows * row_bytes, rows as u64));
        let matrices = bytes.each_ref().map(|bytes| Matrix::new(kind, INPUTS, bytes).expect("whole rows"));
        let packed = NBits::pack(&matrices).expect("alike");
        assert_eq!(packed.outputs, 104);
        let rows = matrices.iter().flat_map(|matrix| (0..matrix.outputs()).map(|row| matrix.row(row)));
        let mut seen = 0;
        for (row, elements) in rows.enumerate() {
            let finite = elements.into_iter().map(f64::from).enumerate().filter(|(_, x)| x.is_finite());
            for (input, expected) in finite {
                seen += 1;
                let (element, offset) = element(&packed, row, input);
                // The offset is rounded to f32.
                let bound = 2e-7 * (offset.abs() + expected.abs());
                assert!((element - expected).abs() <= bound, "{kind:?} {row} {input}: {element} {expected}");
            }
        }
        assert!(seen > 104 * INPUTS * 9 / 10, "{kind:?} {seen}");
    }
}

#[test]
fn matrices_that_are_not_alike_are_not_packed() {
    let bytes = random(36, 1);
    let rows = |kind, inputs| Matrix::new(kind, inputs, &bytes).expect("whole rows");
    assert!(NBits::pack(&[rows(WeightType::Q4_0, 64), rows(WeightType::Q4_0, 64)]).is_some());
    assert!(NBits::pack(&[rows(WeightType::Q4_0, 64), rows(WeightType::Q4_0, 32)]).is_none());
    assert!(NBits::pack(&[rows(WeightType::Q4_0, 64), rows(WeightType::Iq4Nl, 64)]).is_none());
    assert!(NBits::pack(&[rows(WeightType::F16, 18)]).is_none());
    assert!(NBits::pack(&[]).is_none());
}

#[test]
fn elements_of_many_rows_are_those_of_each() {
    for kind in WeightType::ALL {
        let row_bytes = kind.row_bytes(INPUTS).expect("whole blocks");
        let bytes = random(1400 * row_bytes, 1);
        let matrix = Matrix::new(kind, INPUTS, &bytes).expect("whole rows");
        let elements = matrix.elements();
        for (row, elements) in elements.chunks_exact(INPUTS).enumerate().step_by(7) {
            assert!(
                elements.iter().zip(&matrix.row(row)).all(|(x, y)| x.to_bits() == y.to_bits()),
                "{kind:?} {row}"
            );
        }
        assert_eq!(elements.len(), 1400 * INPUTS);
    }
}
