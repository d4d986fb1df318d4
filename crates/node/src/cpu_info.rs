//! What the processor can do.

use std::thread;

use engine::{EngineError, HEAD_DIMS, Isa, Kernels};
use napi_derive::napi;

use crate::failure::{Code, Failure};

/// What the processor can do, and what of it is used.
#[napi(object, object_from_js = false)]
pub struct CpuInfo {
    /// The instruction set whose kernels are used: the best there is, or the one that `MAGICPIG_ISA` names.
    pub isa: String,
    /// The instruction sets that there are kernels for and that this machine has, slowest first.
    pub detected: Vec<String>,
    /// Threads that can run at once.
    pub cores: u32,
}

/// What the processor can do. Throws INVALID_OPTION if `MAGICPIG_ISA` names what is not there.
#[napi]
pub fn cpu_info() -> napi::Result<CpuInfo, Code> {
    let kernels = Kernels::detect().map_err(|error| Failure::from(EngineError::from(error)))?;
    Ok(CpuInfo {
        isa: kernels.isa().to_string(),
        detected: Isa::ALL.iter().filter(|isa| isa.is_available()).map(Isa::to_string).collect(),
        cores: thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
    })
}

/// The head dimensions that there are kernels for.
#[napi]
pub fn head_dims() -> Vec<u32> {
    HEAD_DIMS.map(|dim| dim as u32).to_vec()
}
