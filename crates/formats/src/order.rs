//! Orders in which a file has a tensor's rows or columns otherwise than the model.

/// Rows, or columns, in another order: from `first` on the model has them as (`groups`, `outer`,
/// `inner`, `size`), slowest first, and the file as (`groups`, `inner`, `outer`, `size`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swap {
    /// Whether columns are meant, not rows.
    pub columns: bool,
    /// The first that is elsewhere.
    pub first: usize,
    /// Groups, each of which has its own order.
    pub groups: usize,
    /// The model's slower axis within a group.
    pub outer: usize,
    /// The model's faster axis within a group.
    pub inner: usize,
    /// Rows that stay beside each other.
    pub size: usize,
}

impl Swap {
    /// llama.cpp rotates neighbouring features where transformers rotates the two halves of a head,
    /// so its files have the rows of q and k as (head, pair, half). `None` if `rows` do not divide
    /// into so many heads of pairs.
    pub fn turned(rows: usize, heads: usize) -> Option<Swap> {
        let pairs = heads.checked_mul(2).filter(|pairs| *pairs > 0)?;
        rows.is_multiple_of(pairs).then(|| Swap {
            columns: false,
            first: 0,
            groups: heads,
            outer: 2,
            inner: rows / pairs,
            size: 1,
        })
    }

    /// The model's number of each row of the file.
    pub fn of_model(&self) -> Vec<u32> {
        self.numbers(self.outer, self.inner)
    }

    /// The file's number of each row of the model.
    pub fn of_file(&self) -> Vec<u32> {
        self.numbers(self.inner, self.outer)
    }

    /// Where each row comes from that is put in the order (groups, `fast`, `slow`, size), out of
    /// the order (groups, `slow`, `fast`, size).
    fn numbers(&self, slow: usize, fast: usize) -> Vec<u32> {
        let each = slow * fast * self.size;
        let moved = (0..self.groups * each).map(|at| {
            let (group, at) = (at / each, at % each);
            let (block, within) = (at / self.size, at % self.size);
            let from = block % slow * fast + block / slow;
            self.first + group * each + from * self.size + within
        });
        (0..self.first).chain(moved).map(|n| n as u32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_become_neighbours() {
        // two heads of four features: rows 0 1 | 2 3 and 4 5 | 6 7
        let order = Swap::turned(8, 2).map(|swap| swap.of_model());
        assert_eq!(order, Some(vec![0, 2, 1, 3, 4, 6, 5, 7]));
        assert_eq!([(6, 2), (6, 0)].map(|(r, h)| Swap::turned(r, h)), [None; 2]);
    }

    #[test]
    fn heads_of_a_group_are_dealt_out() {
        // behind two rows two heads of keys, three of values for each, of two rows each
        let swap = Swap {
            columns: false,
            first: 2,
            groups: 1,
            outer: 2,
            inner: 3,
            size: 2,
        };
        let wanted = [0, 1, 2, 3, 8, 9, 4, 5, 10, 11, 6, 7, 12, 13];
        assert_eq!(swap.of_model(), wanted);
    }

    #[test]
    fn what_is_put_in_order_comes_back() {
        let turned = [(8, 2), (64, 4), (48, 3)].map(|(rows, heads)| Swap::turned(rows, heads));
        let grouped = Swap {
            columns: true,
            first: 5,
            groups: 2,
            outer: 4,
            inner: 3,
            size: 7,
        };
        for swap in turned.into_iter().flatten().chain([grouped]) {
            let (file, model) = (swap.of_file(), swap.of_model());
            assert_eq!(file.len(), model.len());
            assert!((0..file.len()).all(|row| model[file[row] as usize] as usize == row));
        }
    }
}
