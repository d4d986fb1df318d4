//! Where in the text steps drew their keys, as JavaScript sees it.

use engine::Draws;
use napi::bindgen_prelude::Float64Array;
use napi_derive::napi;

/// A histogram of positions for each layer.
#[napi(object, object_from_js = false)]
pub struct NativeDraws {
    /// Positions of a bin.
    pub bin: f64,
    /// Rows that were drawn, by bins of positions, for each layer; summed over steps and query heads.
    #[napi(ts_type = "Array<Float64Array>")]
    pub layers: Vec<Float64Array>,
}

impl NativeDraws {
    pub fn new(draws: &Draws, layers: usize) -> NativeDraws {
        let layer = |layer| draws.layer(layer).into_iter().map(|count| count as f64).collect::<Vec<_>>();
        NativeDraws {
            bin: draws.bin() as f64,
            layers: (0..layers).map(|number| Float64Array::new(layer(number))).collect(),
        }
    }
}
