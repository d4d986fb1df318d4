//! The model file, mapped: weights are read where they lie.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::matrix::{Matrix, WeightType};

/// Where the elements of a tensor `[outputs, inputs]` lie in the file.
#[derive(Clone, Copy, Debug)]
pub struct TensorSpan {
    /// Their format.
    pub kind: WeightType,
    /// Rows; 1 for a vector.
    pub outputs: usize,
    /// Elements of a row.
    pub inputs: usize,
    /// Bytes before them.
    pub offset: usize,
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
    /// A tensor lies outside the file, or has another shape than the model calls for.
    #[error("{0}")]
    Mismatch(String),
}

/// A model file that stays mapped.
#[derive(Debug)]
pub struct WeightsFile {
    map: Mmap,
}

impl WeightsFile {
    /// Maps a file to be read.
    ///
    /// # Errors
    /// If the system cannot open or map it.
    pub fn open(path: &Path) -> Result<WeightsFile, WeightsError> {
        let failed = |cause| WeightsError::Io { path: path.to_owned(), cause };
        let file = File::open(path).map_err(failed)?;
        // SAFETY: the mapping is read only. A model file is written under another name and renamed when it is whole
        // (`src/model/download.ts`); one that somebody overwrites while it is used gives wrong numbers, and one that
        // is cut short ends the process with SIGBUS, as with every program that maps its models.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(WeightsFile { map })
    }

    /// The weights of a span.
    ///
    /// # Errors
    /// If it is not within the file.
    pub fn matrix(&self, span: TensorSpan) -> Result<Matrix<'_>, WeightsError> {
        let TensorSpan { kind, outputs, inputs, offset } = span;
        let bytes = kind.row_bytes(inputs).and_then(|row| row.checked_mul(outputs));
        let end = bytes.and_then(|bytes| bytes.checked_add(offset));
        end.and_then(|end| self.map.get(offset..end))
            .and_then(|bytes| Matrix::new(kind, inputs, bytes))
            .ok_or_else(|| {
                WeightsError::Mismatch(format!("{span:?} is not in a file of {} bytes", self.map.len()))
            })
    }
}
