//! The model's files, mapped: weights are read where they lie, or from what was made of them in memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use lsh_attn::kernels::IsaError;
use memmap2::{Mmap, MmapMut, MmapOptions};
use rayon::ThreadPoolBuildError;

use crate::matrix::{Matrix, WeightType};

/// Where the elements of a tensor `[outputs, inputs]` lie in one of the model's files.
#[derive(Clone, Copy, Debug)]
pub struct TensorSpan {
    /// Their format.
    pub kind: WeightType,
    /// Rows; 1 for a vector.
    pub outputs: usize,
    /// Elements of a row.
    pub inputs: usize,
    /// The number of the file.
    pub file: usize,
    /// Bytes before them.
    pub offset: usize,
    /// Whether rows lie side by side, as [`Matrix::pack`] has packed them.
    pub(crate) packed: bool,
}

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file could not be opened or mapped.
    #[error("cannot map {}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The system has no memory for weights that are kept in another form than the file's.
    #[error("no memory for {bytes} bytes of weights: {cause}")]
    Memory {
        /// How much was asked for.
        bytes: usize,
        /// What the system said.
        cause: io::Error,
    },
    /// The instruction set that was asked for is not there, so that nobody knows which form its kernels take.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// The threads that round or pack weights could not be started.
    #[error("no threads to read weights: {0}")]
    Threads(#[from] ThreadPoolBuildError),
    /// A tensor lies outside the file, or has another shape than the model calls for.
    #[error("{0}")]
    Mismatch(String),
}

/// A model's files, which stay mapped, and matrices of them that are kept in memory in another format.
#[derive(Debug)]
pub struct Weights {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Mapped(Mmap),
    Memory(MmapMut),
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match self {
            Part::Mapped(map) => map,
            Part::Memory(bytes) => bytes,
        }
    }
}

impl Weights {
    /// Maps files to be read.
    ///
    /// # Errors
    /// If the system cannot open or map one.
    pub fn open(paths: &[PathBuf]) -> Result<Weights, WeightsError> {
        Ok(Weights { parts: paths.iter().map(|path| mapped(path)).collect::<Result<_, _>>()? })
    }

    /// Keeps what the matrix of a span has become, and `span` says what that is, in memory as a file of its own; in the place of
    /// what it was, if that was in memory as well. The span of it there.
    pub(crate) fn keep(&mut self, span: TensorSpan, bytes: MmapMut) -> TensorSpan {
        let mut file = span.file;
        match &mut self.parts[file] {
            part @ Part::Memory(_) => *part = Part::Memory(bytes),
            Part::Mapped(_) => {
                file = self.parts.len();
                self.parts.push(Part::Memory(bytes));
            }
        }
        TensorSpan { file, offset: 0, ..span }
    }

    /// Gives back the memory that files occupy: what is still read of them comes from the disk again.
    pub(crate) fn release_files(&self) {
        #[cfg(unix)]
        for part in &self.parts {
            if let Part::Mapped(map) = part {
                // SAFETY: the mapping is of a file and never written, so that a dropped page comes back with the same bytes.
                let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            }
        }
    }

    /// The weights of a span.
    ///
    /// # Errors
    /// If it is not within its file.
    pub fn matrix(&self, span: TensorSpan) -> Result<Matrix<'_>, WeightsError> {
        let TensorSpan { kind, outputs, inputs, file, offset, packed } = span;
        let matrix = if packed { Matrix::from_packed } else { Matrix::new };
        let part = self.parts.get(file).map_or(&[][..], Part::bytes);
        let bytes = kind.row_bytes(inputs).and_then(|row| row.checked_mul(outputs));
        let end = bytes.and_then(|bytes| bytes.checked_add(offset));
        end.and_then(|end| part.get(offset..end)).and_then(|bytes| matrix(kind, inputs, bytes)).ok_or_else(
            || {
                WeightsError::Mismatch(format!(
                    "a matrix of {}, {outputs} x {inputs} at byte {offset}, is not in a file of {} bytes",
                    kind.name(),
                    part.len()
                ))
            },
        )
    }
}

/// Zeroes in memory, on large pages where the system has them.
pub(crate) fn memory(bytes: usize) -> Result<MmapMut, WeightsError> {
    let failed = |cause| WeightsError::Memory { bytes, cause };
    let map = MmapOptions::new().len(bytes).map_anon().map_err(failed)?;
    // A hint, so a refusal is no error.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

fn mapped(path: &Path) -> Result<Part, WeightsError> {
    let failed = |cause| WeightsError::Io { path: path.to_owned(), cause };
    let file = File::open(path).map_err(failed)?;
    // SAFETY: the mapping is read only. A model file is written under another name and renamed when it is whole
    // (`src/model/download.ts`); one that somebody overwrites while it is used gives wrong numbers, and one that
    // is cut short ends the process with SIGBUS, as with every program that maps its models.
    let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
    Ok(Part::Mapped(map))
}
