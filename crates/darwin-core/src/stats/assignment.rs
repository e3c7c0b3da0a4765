//! The assignment problem.

/// The column assigned to each row of a square cost matrix at least total cost: the Hungarian
/// method with potentials, O(n^3) (Kuhn 1955; Jonker and Volgenant, Computing 1987). Among several
/// best ones it is always the same. `None` where the matrix is not square or a cost not finite.
#[must_use]
pub fn assignment(cost: &[Vec<f64>]) -> Option<Vec<usize>> {
    let n = cost.len();
    if cost.iter().any(|row| row.len() != n || row.iter().any(|c| !c.is_finite())) {
        return None;
    }
    // Index 0 of the working arrays is a dummy row and column.
    let (mut u, mut v) = (vec![0.0; n + 1], vec![0.0; n + 1]);
    let mut row_of = vec![0; n + 1];
    for row in 1..=n {
        row_of[0] = row;
        let (mut column, path) = augment(cost, &mut u, &mut v, &row_of);
        while column != 0 {
            let before = path[column];
            row_of[column] = row_of[before];
            column = before;
        }
    }
    let mut columns = vec![0; n];
    (1..=n).for_each(|column| columns[row_of[column] - 1] = column - 1);
    Some(columns)
}

/// The shortest augmenting path from the dummy column: its free end and each column's predecessor.
fn augment(
    cost: &[Vec<f64>],
    u: &mut [f64],
    v: &mut [f64],
    row_of: &[usize],
) -> (usize, Vec<usize>) {
    let n = cost.len();
    let (mut least, mut used) = (vec![f64::INFINITY; n + 1], vec![false; n + 1]);
    let mut path = vec![0; n + 1];
    let mut column = 0;
    while row_of[column] != 0 {
        used[column] = true;
        let row = row_of[column];
        let (mut delta, mut next) = (f64::INFINITY, 0);
        for j in (1..=n).filter(|j| !used[*j]) {
            let reduced = cost[row - 1][j - 1] - u[row] - v[j];
            if reduced < least[j] {
                (least[j], path[j]) = (reduced, column);
            }
            if least[j] < delta {
                (delta, next) = (least[j], j);
            }
        }
        for j in 0..=n {
            if used[j] {
                u[row_of[j]] += delta;
                v[j] -= delta;
            } else {
                least[j] -= delta;
            }
        }
        column = next;
    }
    (column, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyed::{Key, Rng};

    fn total(cost: &[Vec<f64>], columns: &[usize]) -> f64 {
        columns.iter().enumerate().map(|(i, j)| cost[i][*j]).sum()
    }

    /// Multiples of 1/8, so that sums are exact and ties are common.
    fn random(n: usize, seed: u64) -> Vec<Vec<f64>> {
        let mut rng = Rng::new(Key::new(seed, &["assignment"]), 0);
        (0..n).map(|_| (0..n).map(|_| rng.below(64) as f64 / 8.0 - 3.0).collect()).collect()
    }

    /// The least total of all orders of `left`.
    fn brute(cost: &[Vec<f64>], row: usize, left: &[usize]) -> f64 {
        if left.is_empty() {
            return 0.0;
        }
        let each = left.iter().map(|j| {
            let rest: Vec<usize> = left.iter().copied().filter(|k| k != j).collect();
            cost[row][*j] + brute(cost, row + 1, &rest)
        });
        each.fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn every_small_one_against_all_orders() {
        for seed in 0..60 {
            let n = 1 + seed as usize % 6;
            let cost = random(n, seed);
            let columns = assignment(&cost).unwrap();
            let mut sorted = columns.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>());
            assert_eq!(total(&cost, &columns), brute(&cost, 0, &sorted), "{cost:?}");
        }
    }

    /// `tools/oracle/assignment.py`: `scipy.optimize.linear_sum_assignment`.
    #[test]
    fn scipy_finds_the_same() {
        let golden = include_str!("assignment.json");
        let golden: Vec<(Vec<Vec<f64>>, Vec<usize>)> = serde_json::from_str(golden).unwrap();
        assert_eq!(golden.len(), 4);
        for (cost, columns) in golden {
            assert_eq!(assignment(&cost), Some(columns));
        }
    }

    #[test]
    fn what_has_no_assignment() {
        assert_eq!(assignment(&[vec![1.0, 2.0]]), None);
        assert_eq!(assignment(&[vec![f64::NAN]]), None);
        assert_eq!(assignment(&[]), Some(Vec::new()));
    }
}
