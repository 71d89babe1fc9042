//! Which weights of a matrix (out, in) share a scale, and the shape that its scales then have.

use crate::auxiliary::{AuxTensor, Read};

/// What shares a scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Grid {
    /// The whole matrix.
    Tensor,
    /// A row.
    Channel,
    /// So many columns of a row, which divide it.
    Group(usize),
    /// A block of rows and columns; at the ends it may be cut.
    Block([usize; 2]),
}

impl Grid {
    /// That of scales whose shape alone decides between one for all and one a row.
    pub(super) fn of(scales: &AuxTensor, rows: usize) -> Read<Grid> {
        match scales.shape[..] {
            [] | [1] | [1, 1] => Ok(Grid::Tensor),
            [n] | [n, 1] if n == rows => Ok(Grid::Channel),
            _ => Err(format!(
                "{} has the shape {:?}, and the configuration names no blocks: one scale for all \
                 or one for each of {rows} rows can be read",
                scales.name, scales.shape
            )),
        }
    }

    /// Rows and columns that share a scale of a matrix of this shape; `scales` are checked to have
    /// one for each.
    pub(super) fn shared(
        self,
        scales: &AuxTensor,
        [rows, columns]: [usize; 2],
    ) -> Read<(usize, usize)> {
        let Some(shared @ (r, c)) = self.sizes([rows, columns]) else {
            return Err(format!(
                "groups {} do not divide rows of {columns}",
                self.name()
            ));
        };
        let shapes = match self {
            Grid::Tensor => vec![vec![], vec![1], vec![1, 1]],
            Grid::Channel => vec![vec![rows, 1], vec![rows]],
            Grid::Group(_) | Grid::Block(_) => vec![vec![rows.div_ceil(r), columns.div_ceil(c)]],
        };
        match shapes.contains(&scales.shape) {
            true => Ok(shared),
            false => Err(format!(
                "{} has the shape {:?}; for scales {}, a matrix of {rows} x {columns} has {:?}",
                scales.name,
                scales.shape,
                self.name(),
                shapes[0]
            )),
        }
    }

    /// Rows and columns that share a scale of a matrix of this shape; `None`: groups do not divide
    /// it.
    pub(super) fn sizes(self, [rows, columns]: [usize; 2]) -> Option<(usize, usize)> {
        match self {
            Grid::Tensor => Some((rows, columns)),
            Grid::Channel => Some((1, columns)),
            Grid::Group(n) => columns.is_multiple_of(n).then_some((1, n)),
            Grid::Block([rows, columns]) => Some((rows, columns)),
        }
    }

    fn name(self) -> String {
        match self {
            Grid::Tensor => "of the whole tensor".into(),
            Grid::Channel => "of rows".into(),
            Grid::Group(n) => format!("of {n} columns"),
            Grid::Block([r, c]) => format!("of blocks of {r} x {c}"),
        }
    }
}
