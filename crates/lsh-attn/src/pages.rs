//! Large arrays on large pages: tables are read by jumps, and each jump to another small page costs a walk through the
//! page tables, in a virtual machine a long one.

use std::fmt;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use memmap2::MmapMut;

/// Arrays shorter than a large page go on the heap.
const LARGE_PAGE: usize = 2 << 20;

/// A zeroed array of fixed length.
pub struct Pages<T> {
    memory: Memory<T>,
    len: usize,
}

enum Memory<T> {
    Heap(Vec<T>),
    Mapped(MmapMut),
}

impl<T: Pod> Pages<T> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Pages<T> {
        let bytes = len * size_of::<T>();
        let mapped = (bytes >= LARGE_PAGE).then(|| MmapMut::map_anon(bytes).ok()).flatten();
        let memory = match mapped {
            Some(map) => {
                // A hint: where the system has no large pages, small ones serve.
                #[cfg(target_os = "linux")]
                let _ = map.advise(memmap2::Advice::HugePage);
                Memory::Mapped(map)
            }
            None => Memory::Heap(vec![T::zeroed(); len]),
        };
        Pages { memory, len }
    }
}

impl<T: Pod> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.memory {
            Memory::Heap(values) => values,
            // A mapping begins at a page, and so is aligned for every element.
            Memory::Mapped(map) => &bytemuck::cast_slice(&map[..self.len * size_of::<T>()])[..self.len],
        }
    }
}

impl<T: Pod> DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.memory {
            Memory::Heap(values) => values,
            Memory::Mapped(map) => bytemuck::cast_slice_mut(&mut map[..self.len * size_of::<T>()]),
        }
    }
}

impl<T: Pod> Clone for Pages<T> {
    fn clone(&self) -> Self {
        let mut pages = Pages::zeroed(self.len);
        pages.copy_from_slice(self);
        pages
    }
}

impl<T: Pod + PartialEq> PartialEq for Pages<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Pod + Eq> Eq for Pages<T> {}

impl<T: Pod> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pages({})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_arrays_are_zeroed_and_keep_what_is_written() {
        for len in [0, 1, 1000, LARGE_PAGE / 2 - 1, LARGE_PAGE / 2, LARGE_PAGE + 3] {
            let mut pages = Pages::<u16>::zeroed(len);
            assert_eq!(pages.len(), len);
            assert!(pages.iter().all(|&x| x == 0));
            for (i, x) in pages.iter_mut().enumerate() {
                *x = i as u16;
            }
            let copy = pages.clone();
            assert_eq!(pages, copy);
            assert!(copy.iter().enumerate().all(|(i, &x)| x == i as u16));
        }
    }
}
