//! Weights rounded to blocks: how far off each format is, and that a search for the least squared error finds less of it.

use dense::{DenseKernels, Matrix, WeightType};
use lsh_attn::kernels::{Isa, Kernels};
use lsh_attn::mix::mix64;

const SIZE: usize = 32 * 4096;

/// Sums of twelve uniform numbers: normal to within what blocks of 32 could see.
fn normal() -> Vec<f32> {
    let uniform = |i: u64| (mix64(i) >> 40) as f32 / (1u64 << 24) as f32;
    (0..SIZE as u64).map(|i| 0.02 * ((0..12).map(|j| uniform(12 * i + j)).sum::<f32>() - 6.0)).collect()
}

/// Elements as blocks, the same on every instruction set that is here.
fn quantise(kind: WeightType, elements: &[f32], out: &mut [u8]) {
    DenseKernels::from(Kernels::of(Isa::Scalar).expect("always there")).round(kind, elements, out);
    for kernels in Isa::ALL.into_iter().filter_map(|isa| Kernels::of(isa).ok()) {
        let mut blocks = vec![0; out.len()];
        DenseKernels::from(kernels).round(kind, elements, &mut blocks);
        assert!(blocks == out, "{kind:?} on {}", kernels.isa());
    }
}

/// The root of the mean square of what rounding changes, relative to the elements'.
fn relative_error(kind: WeightType, elements: &[f32]) -> f64 {
    let mut blocks = vec![0; kind.row_bytes(elements.len()).expect("whole blocks")];
    quantise(kind, elements, &mut blocks);
    let rounded = Matrix::new(kind, elements.len(), &blocks).expect("a row").row(0);
    difference(elements, &rounded)
}

fn difference(elements: &[f32], rounded: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = elements.iter().zip(rounded).map(|(x, y)| square(x - y)).sum();
    (error / elements.iter().map(|&x| square(x)).sum::<f64>()).sqrt()
}

#[test]
fn rounding_is_as_near_as_its_bits_allow() {
    let elements = normal();
    let errors = [WeightType::Q8_0, WeightType::Q4_1, WeightType::Q4_0]
        .map(|kind| (kind, relative_error(kind, &elements)));
    println!("{errors:?}");
    let [(_, eight), (_, four), (_, symmetric)] = errors;
    assert!(eight < 0.006, "{errors:?}");
    assert!(four < 0.075 && four < symmetric, "{errors:?}");

    // Negative control: levels from the least to the greatest element, as without the search.
    let plain: Vec<f32> = elements
        .chunks_exact(32)
        .flat_map(|block| {
            let least = block.iter().copied().fold(f32::INFINITY, f32::min);
            let scale = (block.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least) / 15.0;
            block.iter().map(move |x| ((x - least) / scale).round() * scale + least)
        })
        .collect();
    let plain = difference(&elements, &plain);
    println!("without the search {plain}");
    assert!(four < 0.97 * plain, "{four} is not below {plain}");
}

#[test]
fn blocks_of_zeros_and_of_one_value_are_exact() {
    for kind in [WeightType::Q8_0, WeightType::Q4_0, WeightType::Q4_1] {
        assert_eq!(relative_error_of_zero(kind), 0.0, "{kind:?}");
        for value in [1.0f32, -0.5] {
            let error = relative_error(kind, &[value; 32]);
            assert!(error < 0.001, "{kind:?} of {value}: {error}");
        }
    }
}

fn relative_error_of_zero(kind: WeightType) -> f32 {
    let mut blocks = vec![255; kind.row_bytes(32).expect("a block")];
    quantise(kind, &[0.0; 32], &mut blocks);
    Matrix::new(kind, 32, &blocks).expect("a row").row(0).iter().map(|x| x.abs()).sum()
}
