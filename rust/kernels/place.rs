//! Where a kernel writes: a matrix that can be cut by columns, which a slice can't.

use std::marker::PhantomData;
use std::ops::Range;

/// [rows, width] with row stride `stride`, in a slice that is borrowed for 'a. The columns of two threads lie between one
/// another in memory, so no two `&mut [f32]` can hold them: a pointer, made once from the whole slice, does.
pub(super) struct Place<'a> {
    start: *mut f32,
    rows: usize,
    width: usize,
    stride: usize,
    slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is part of a `&mut [f32]`, which may go to another thread.
unsafe impl Send for Place<'_> {}
// SAFETY: of a shared one nothing can be read or written, but by the parts of `share`, whose caller answers for them.
unsafe impl Sync for Place<'_> {}

/// Whether `rows` rows of `width` with row stride `stride` lie in a slice of `len`.
pub(super) fn fits(len: usize, rows: usize, width: usize, stride: usize) -> bool {
    if rows == 0 || width == 0 {
        return true;
    }
    let end = (rows - 1).checked_mul(stride).and_then(|last| last.checked_add(width));
    (stride >= width || rows == 1) && end.is_some_and(|end| end <= len)
}

impl<'a> Place<'a> {
    pub(super) fn new(slice: &'a mut [f32], rows: usize, width: usize, stride: usize) -> Self {
        assert!(fits(slice.len(), rows, width, stride), "out is shorter than its shape");
        Self { start: slice.as_mut_ptr(), rows, width, stride, slice: PhantomData }
    }

    /// Some columns, for one of several threads.
    /// # Safety
    /// While the part lives, no other part has any of its columns.
    pub(super) unsafe fn share(&self, columns: Range<usize>) -> Place<'_> {
        self.cut(0..self.rows, columns)
    }

    /// Some rows and columns, while nothing else of it is in use.
    #[inline(always)]
    pub(super) fn part(&mut self, rows: Range<usize>, columns: Range<usize>) -> Place<'_> {
        self.cut(rows, columns)
    }

    #[inline(always)]
    fn cut(&self, rows: Range<usize>, columns: Range<usize>) -> Place<'_> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert!(
            columns.start <= columns.end && columns.end <= self.width,
            "columns {columns:?} of {}",
            self.width
        );
        Place {
            // wrapping_add: of an empty part it may lie outside, and isn't followed.
            start: self.start.wrapping_add(rows.start * self.stride + columns.start),
            rows: rows.len(),
            width: columns.len(),
            stride: self.stride,
            slice: PhantomData,
        }
    }

    #[inline(always)]
    pub(super) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: `new` and `cut` have shown that this row lies in the slice; its columns are this place's alone, which is
        // borrowed mutably with the row.
        unsafe { std::slice::from_raw_parts_mut(self.start.wrapping_add(row * self.stride), self.width) }
    }

    /// The first element; rows and columns beyond the shape are not to be followed.
    #[inline(always)]
    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.start
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }
}
