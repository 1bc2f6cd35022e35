//! What a step consists of, as data: buffers, and a sequence of products and kernels over parts of
//! them. Every size is checked where a command is made, on any system; what carries the commands out
//! (Metal, or in the tests Vulkan) adds none.

use super::kernels::Kernel;
use std::ops::Range;

/// Where a part of a buffer may begin: a multiple of this, in bytes. More than any Metal or Vulkan
/// device asks for.
pub(crate) const ALIGNMENT_BYTES: usize = 256;

/// A buffer, by its place in [`Buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BufferId(pub(crate) usize);

/// A buffer to allocate, filled with zeros.
#[derive(Clone, Debug)]
pub(crate) struct Allocation {
    pub(crate) name: &'static str,
    pub(crate) bytes: usize,
}

/// All buffers of a session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers(Vec<Allocation>);

impl Buffers {
    /// A buffer of that many elements of four bytes, seen as one row.
    pub(crate) fn add(&mut self, name: &'static str, len: usize) -> Matrix {
        let bytes = (4 * len.max(1)).next_multiple_of(16);
        self.0.push(Allocation { name, bytes });
        Matrix::row(BufferId(self.0.len() - 1), 0, len)
    }

    pub(crate) fn list(&self) -> &[Allocation] {
        &self.0
    }

    /// Bytes of all of them.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|buffer| buffer.bytes).sum()
    }
}

/// A part of a buffer: one or more row-major matrices without padding, one behind the other. All
/// elements have four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Matrix {
    pub(crate) buffer: BufferId,
    pub(crate) offset_bytes: usize,
    /// How many of them.
    pub(crate) matrices: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Matrix {
    /// A vector.
    ///
    /// # Panics
    /// If no device could begin there.
    pub(crate) fn row(buffer: BufferId, offset_bytes: usize, columns: usize) -> Matrix {
        assert!(offset_bytes.is_multiple_of(ALIGNMENT_BYTES), "a part at byte {offset_bytes}");
        Matrix { buffer, offset_bytes, matrices: 1, rows: 1, columns }
    }

    /// Elements.
    pub(crate) fn len(&self) -> usize {
        self.matrices * self.rows * self.columns
    }

    pub(crate) fn bytes(&self) -> usize {
        4 * self.len()
    }

    /// Its place in the buffer, in bytes.
    pub(crate) fn range(&self) -> Range<usize> {
        self.offset_bytes..self.offset_bytes + self.bytes()
    }

    /// The same elements, or the first of them, in another shape.
    ///
    /// # Panics
    /// If there are not so many.
    pub(crate) fn shaped(self, rows: usize, columns: usize) -> Matrix {
        self.batched(1, rows, columns)
    }

    /// The same elements, or the first of them, as several matrices.
    ///
    /// # Panics
    /// If there are not so many.
    pub(crate) fn batched(self, matrices: usize, rows: usize, columns: usize) -> Matrix {
        let shaped = Matrix { matrices, rows, columns, ..self };
        assert!(shaped.len() <= self.len(), "{shaped:?} of {self:?}");
        shaped
    }

    pub(crate) fn overlaps(&self, other: &Matrix) -> bool {
        let (mine, others) = (self.range(), other.range());
        self.buffer == other.buffer && mine.start < others.end && others.start < mine.end
    }
}

/// A factor of a product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Factor {
    pub(crate) matrix: Matrix,
    pub(crate) transposed: bool,
}

impl Factor {
    /// Rows and columns as the product takes them.
    fn shape(&self) -> [usize; 2] {
        let Matrix { rows, columns, .. } = self.matrix;
        if self.transposed { [columns, rows] } else { [rows, columns] }
    }
}

/// As it is.
pub(crate) fn plain(matrix: Matrix) -> Factor {
    Factor { matrix, transposed: false }
}

/// Rows as columns.
pub(crate) fn transposed(matrix: Matrix) -> Factor {
    Factor { matrix, transposed: true }
}

/// `result = alpha * left * right + beta * result`, of each of their matrices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Product {
    pub(crate) left: Factor,
    pub(crate) right: Factor,
    pub(crate) result: Matrix,
    /// Columns of `left`, rows of `right`.
    pub(crate) interior: usize,
    pub(crate) alpha: f32,
    /// 0: what was in `result` is not read.
    pub(crate) beta: f32,
}

/// What kernels are told, as it lies in memory: `Arguments` of `kernels.wgsl`. `first` and `step`
/// are known when a step is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) rows: u32,
    pub(crate) columns: u32,
    pub(crate) factor: f32,
}

/// Bytes of the arguments.
pub(crate) const ARGUMENT_BYTES: usize = 20;

impl Arguments {
    /// In the order of `kernels.wgsl`.
    pub(crate) fn words(&self, at: At) -> [u32; ARGUMENT_BYTES / 4] {
        [at.first, at.step, self.rows, self.columns, self.factor.to_bits()]
    }
}

/// Which step is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct At {
    /// Place in the order of its first sample.
    pub(crate) first: u32,
    /// Place of its loss.
    pub(crate) step: u32,
}

/// A kernel over parts of buffers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dispatch {
    pub(crate) kernel: Kernel,
    /// In the order of the kernel's bindings.
    pub(crate) bindings: Vec<Matrix>,
    pub(crate) arguments: Arguments,
    /// Workgroups, in a line.
    pub(crate) groups: usize,
}

/// One thing that the device does. Commands are carried out in order, each when the one before it
/// is done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    Product(Product),
    Dispatch(Dispatch),
}

impl From<Dispatch> for Command {
    fn from(dispatch: Dispatch) -> Command {
        Command::Dispatch(dispatch)
    }
}

impl Command {
    /// `result = alpha * left * right`.
    ///
    /// # Panics
    /// If the shapes do not fit: they are computed from the model, not given by a user.
    pub(crate) fn product(result: Matrix, left: Factor, right: Factor, alpha: f32) -> Command {
        Command::multiply(result, left, right, [alpha, 0.0])
    }

    /// `result += alpha * left * right`.
    ///
    /// # Panics
    /// As [`Command::product`].
    pub(crate) fn add_product(result: Matrix, left: Factor, right: Factor, alpha: f32) -> Command {
        Command::multiply(result, left, right, [alpha, 1.0])
    }

    fn multiply(result: Matrix, left: Factor, right: Factor, scales: [f32; 2]) -> Command {
        let ([rows, interior], [right_rows, columns]) = (left.shape(), right.shape());
        assert_eq!(interior, right_rows, "{left:?} times {right:?}");
        assert_eq!([rows, columns], [result.rows, result.columns], "{left:?} times {right:?}");
        let counts = [left.matrix.matrices, right.matrix.matrices];
        assert_eq!(counts, [result.matrices; 2], "{left:?} times {right:?}");
        assert!(result.len() > 0 && interior > 0, "an empty product {left:?} times {right:?}");
        for factor in [left, right] {
            assert!(!factor.matrix.overlaps(&result), "{result:?} overwrites its factor");
        }
        let [alpha, beta] = scales;
        Command::Product(Product { left, right, result, interior, alpha, beta })
    }

    /// Parts that it reads before it writes them.
    #[cfg(test)]
    pub(crate) fn reads(&self) -> Vec<Matrix> {
        match self {
            Command::Product(product) => {
                let old = (product.beta != 0.0).then_some(product.result);
                [product.left.matrix, product.right.matrix].into_iter().chain(old).collect()
            }
            Command::Dispatch(dispatch) => dispatch.with_access(|access| access.reads()),
        }
    }

    /// Parts that it writes.
    #[cfg(test)]
    pub(crate) fn writes(&self) -> Vec<Matrix> {
        match self {
            Command::Product(product) => vec![product.result],
            Command::Dispatch(dispatch) => dispatch.with_access(|access| access.writes()),
        }
    }
}

#[cfg(test)]
impl Dispatch {
    fn with_access(&self, wanted: impl Fn(super::kernels::Access) -> bool) -> Vec<Matrix> {
        let accesses = self.kernel.accesses().iter().zip(&self.bindings);
        accesses.filter(|&(&access, _)| wanted(access)).map(|(_, &part)| part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffers() -> (Buffers, Matrix) {
        let mut buffers = Buffers::default();
        let all = buffers.add("all", 600);
        (buffers, all)
    }

    #[test]
    fn a_product_knows_its_interior_whatever_is_transposed() {
        let mut buffers = Buffers::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| buffers.add(name, 12));
        for (left, right) in [
            (plain(a.shaped(2, 3)), plain(b.shaped(3, 4))),
            (transposed(a.shaped(3, 2)), plain(b.shaped(3, 4))),
            (plain(a.shaped(2, 3)), transposed(b.shaped(4, 3))),
            (transposed(a.shaped(3, 2)), transposed(b.shaped(4, 3))),
        ] {
            let command = Command::product(c.shaped(2, 4), left, right, 1.0);
            assert!(matches!(command, Command::Product(Product { interior: 3, .. })));
        }
        assert_eq!(buffers.bytes(), 3 * 48);
    }

    #[test]
    #[should_panic(expected = "times")]
    fn factors_that_do_not_meet_are_refused() {
        let (_, all) = buffers();
        let (left, right) = (plain(all.shaped(2, 3)), plain(all.shaped(4, 2)));
        Command::product(all.shaped(2, 2), left, right, 1.0);
    }

    #[test]
    #[should_panic(expected = "overwrites its factor")]
    fn a_result_that_overwrites_a_factor_is_refused() {
        let (_, all) = buffers();
        let factor = plain(all.shaped(3, 3));
        Command::product(all.shaped(3, 3), factor, factor, 1.0);
    }

    #[test]
    #[should_panic(expected = "of Matrix")]
    fn a_part_larger_than_its_buffer_is_refused() {
        let (_, all) = buffers();
        all.shaped(61, 10);
    }

    #[test]
    #[should_panic(expected = "a part at byte 4")]
    fn a_part_that_begins_where_no_device_could_bind_it_is_refused() {
        Matrix::row(BufferId(0), 4, 1);
    }

    #[test]
    fn what_is_accumulated_is_read() {
        let mut buffers = Buffers::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| buffers.add(name, 4).shaped(2, 2));
        let fresh = Command::product(c, plain(a), plain(b), 1.0);
        let added = Command::add_product(c, plain(a), plain(b), 1.0);
        assert_eq!((fresh.reads(), fresh.writes()), (vec![a, b], vec![c]));
        assert_eq!((added.reads(), added.writes()), (vec![a, b, c], vec![c]));
    }
}
