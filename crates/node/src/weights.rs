//! Weights in the forms that ONNX Runtime takes, for devices other than the CPU.

use engine::{Matrix, NBits, WeightType};
use napi::bindgen_prelude::{Float32Array, Uint8Array};
use napi_derive::napi;

use crate::arguments::integer;
use crate::failure::{Code, Failure, contained};

/// Weights [outputs, inputs] as MatMulNBits takes them: scale * (quant - 2^(bits - 1)) + offset.
#[napi(object, object_from_js = false)]
pub struct NativePackedBlocks {
    /// Inputs that share a scale.
    #[napi(ts_type = "16 | 32")]
    pub block: u32,
    /// Of a quant.
    #[napi(ts_type = "4 | 8")]
    pub bits: u32,
    /// [outputs, inputs / block, block * bits / 8]; of two 4-bit quants in a byte the earlier is the low one.
    pub quants: Uint8Array,
    /// [outputs, inputs / block]
    pub scales: Float32Array,
    /// [inputs / block, outputs], or undefined where all are zero.
    pub offsets: Option<Float32Array>,
}

/// Packs matrices of one quantised type, of which `tensors` has the bytes, one after the other along the outputs. Blocks the thread
/// while all cores pack. Throws INVALID_OPTION if the type has no blocks, or the bytes are not `outputs` rows of `inputs` elements.
#[napi]
pub fn pack_blocks(
    kind: String,
    tensors: Vec<Uint8Array>,
    outputs: f64,
    inputs: f64,
) -> napi::Result<NativePackedBlocks, Code> {
    let size = |name: &str, value: f64| integer(name, value, u32::MAX);
    let (outputs, inputs) = (size("outputs", outputs)?, size("inputs", inputs)?);
    let format = weight_type(&kind)?;
    let matrices: Option<Vec<_>> = tensors.iter().map(|bytes| Matrix::new(format, inputs, bytes)).collect();
    let matrices = matrices.filter(|matrices| matrices.iter().map(Matrix::outputs).sum::<usize>() == outputs);
    let matrices = matrices.ok_or_else(|| misfit(&kind, &format!("{outputs} x {inputs} elements")))?;
    let packed = contained(|| Ok(NBits::pack(&matrices))).flatten()?;
    let packed = packed.ok_or_else(|| misfit(&kind, "any blocks"))?;
    Ok(NativePackedBlocks {
        block: packed.block as u32,
        bits: packed.bits as u32,
        quants: packed.quants.into(),
        scales: packed.scales.into(),
        offsets: packed.offsets.map(Float32Array::from),
    })
}

/// The exact f32 elements of whole blocks of a type. Blocks the thread, while all cores work if there are many. Throws INVALID_OPTION if
/// the type is unknown, or the bytes are not whole blocks.
#[napi]
pub fn dequantise(kind: String, bytes: &[u8]) -> napi::Result<Float32Array, Code> {
    let format = weight_type(&kind)?;
    let (elements, _) = format.block();
    let blocks = Matrix::new(format, elements, bytes).ok_or_else(|| misfit(&kind, "whole blocks"))?;
    Ok(contained(|| Ok(blocks.elements())).flatten()?.into())
}

fn weight_type(name: &str) -> Result<WeightType, Failure> {
    WeightType::named(name).ok_or_else(|| Failure::invalid(format!("the type {name} is unknown")))
}

fn misfit(kind: &str, what: &str) -> Failure {
    Failure::invalid(format!("the bytes of type {kind} are not {what}"))
}
