//! Items by their beginnings: what several begin with is run once, and each goes on from there.

use super::ScoreItem;
use std::ops::Range;

/// Shorter beginnings are not worth the copies of what is remembered of them.
const MIN_SHARED: usize = 16;

/// How often an item's tokens are cut: instructions, examples, question, answer.
const MAX_DEPTH: usize = 4;

/// Tokens that one item, or all of some items that have the same tokens before, go on with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// The (first) item.
    pub(super) item: usize,
    /// Its tokens.
    pub(super) range: Range<usize>,
    /// (position, item): the token that follows this position is to be scored for this item. By
    /// position.
    pub(super) asked: Vec<(usize, usize)>,
    /// What follows.
    pub(super) children: Vec<Node>,
}

impl Node {
    /// Tokens of this node and all below it.
    pub(super) fn tokens(&self) -> usize {
        self.range.len() + self.children.iter().map(Self::tokens).sum::<usize>()
    }
}

/// The trees of items; `fed` are the tokens of each that go through the model.
pub(super) fn grow(items: &[ScoreItem], fed: &[Vec<u32>]) -> Vec<Node> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|a, b| fed[*a].cmp(&fed[*b]));
    let shared = |pair: &[usize]| {
        let pairs = fed[pair[0]].iter().zip(&fed[pair[1]]);
        pairs.take_while(|(a, b)| a == b).count()
    };
    let shared: Vec<usize> = order.windows(2).map(shared).collect();
    Grower { items, fed, order: &order, shared: &shared }.grow(0..order.len(), 0, 1)
}

struct Grower<'a> {
    items: &'a [ScoreItem],
    fed: &'a [Vec<u32>],
    /// Items by their tokens.
    order: &'a [usize],
    /// Tokens that each shares with the next.
    shared: &'a [usize],
}

impl Grower<'_> {
    /// Nodes for the items `order[among]`, which have the first `start` tokens in common.
    fn grow(&self, among: Range<usize>, start: usize, depth: usize) -> Vec<Node> {
        let mut nodes = Vec::new();
        let mut first = among.start;
        while first < among.end {
            let item = self.order[first];
            let (mut last, mut end) = (first, self.fed[item].len());
            while depth < MAX_DEPTH
                && last + 1 < among.end
                && self.shared[last] >= start + MIN_SHARED
            {
                end = end.min(self.shared[last]);
                last += 1;
            }
            nodes.push(self.node(first..last + 1, start..end, depth));
            first = last + 1;
        }
        nodes
    }

    fn node(&self, among: Range<usize>, range: Range<usize>, depth: usize) -> Node {
        let mut asked = Vec::new();
        for item in &self.order[among.clone()] {
            let from = (self.items[*item].prompt.len() - 1).max(range.start);
            asked.extend((from..range.end).map(|position| (position, *item)));
        }
        asked.sort_unstable();
        // those that end here come first
        let ended =
            self.order[among.clone()].iter().take_while(|i| self.fed[**i].len() == range.end);
        let rest = among.start + ended.count()..among.end;
        let children = self.grow(rest, range.end, depth + 1);
        Node { item: self.order[among.start], range, asked, children }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every item's tokens are what the nodes on its way hold, and each of its answer's tokens is
    /// asked for once.
    #[test]
    fn trees_hold_every_item() {
        let long: Vec<u32> = (0..60).collect();
        let item = |prompt: &[u32], answer: &[u32]| ScoreItem {
            prompt: prompt.to_vec(),
            answer: answer.to_vec(),
        };
        let question = [&long[..40], &[7; 20]].concat();
        let items = [
            item(&question, &[1]),
            item(&long[..40], &[9, 9]),
            item(&question, &[1, 2, 3]),
            item(&long[..5], &[4]),
            item(&question, &[2]),
            item(&[&question[..], &[5; 30]].concat(), &[1]),
            item(&question[..50], &[7; 11]),
        ];
        let fed: Vec<Vec<u32>> = items.iter().map(super::super::fed).collect();
        let nodes = grow(&items, &fed);
        let mut found: Vec<(usize, usize)> = Vec::new();
        let mut walk: Vec<(&Node, Vec<u32>)> = nodes.iter().map(|n| (n, Vec::new())).collect();
        while let Some((node, mut path)) = walk.pop() {
            assert_eq!(path.len(), node.range.start);
            path.extend(&fed[node.item][node.range.clone()]);
            for (position, item) in &node.asked {
                assert!(
                    node.range.contains(position) && fed[*item].starts_with(&path[..=*position])
                );
                found.push((*item, *position));
            }
            walk.extend(node.children.iter().map(|n| (n, path.clone())));
        }
        found.sort_unstable();
        let all = items.iter().enumerate().flat_map(|(i, item)| {
            (item.prompt.len() - 1..item.prompt.len() + item.answer.len() - 1).map(move |p| (i, p))
        });
        assert_eq!(found, all.collect::<Vec<_>>());
        // 40 shared by all but one, 20 by five of them, then 30, 1 (beside the 40), 2, and 5 alone
        assert_eq!(nodes.iter().map(Node::tokens).sum::<usize>(), 40 + 20 + 30 + 1 + 2 + 5);
    }

    /// Items that grow out of one another do not make deep trees.
    #[test]
    fn chains_are_cut() {
        let ids: Vec<u32> = vec![3; 2000];
        let items: Vec<ScoreItem> = (1..100)
            .map(|i| ScoreItem { prompt: ids[..20 * i].to_vec(), answer: vec![1] })
            .collect();
        let fed: Vec<Vec<u32>> = items.iter().map(super::super::fed).collect();
        let nodes = grow(&items, &fed);
        fn depth(nodes: &[Node]) -> usize {
            nodes.iter().map(|n| 1 + depth(&n.children)).max().unwrap_or(0)
        }
        assert_eq!(depth(&nodes), MAX_DEPTH);
        let asked = |nodes: &[Node]| -> usize { nodes.iter().map(|n| n.asked.len()).sum() };
        assert_eq!(asked(&nodes), 1);
    }
}
