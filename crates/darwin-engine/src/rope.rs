//! Rotary embedding of queries and keys.

use crate::Rope;

/// Cosines and sines of the positions met so far, for the first `dim` dimensions of a head; for text the three rows of positions of mrope are equal.
#[derive(Debug, Default)]
pub(crate) struct RopeTable {
    half: usize,
    positions: usize,
    frequencies: Vec<f32>,
    scale: f32,
    /// (positions, [cos ; sin])
    table: Vec<f32>,
}

impl RopeTable {
    /// Extends the table to `positions`. A table belongs to one model.
    pub(crate) fn prepare(&mut self, rope: &Rope, positions: usize) {
        if self.positions == 0 {
            self.half = rope.dim / 2;
            (self.frequencies, self.scale) = rope.frequencies();
        }
        for position in self.positions..positions {
            // float32 as in transformers: the angle of a late position is rounded there too
            let angles = self.frequencies.iter().map(|f| position as f32 * f);
            self.table.extend(angles.clone().map(|a| a.cos() * self.scale));
            self.table.extend(angles.map(|a| a.sin() * self.scale));
        }
        self.positions = self.positions.max(positions);
    }

    /// Rotates a head at a prepared position, the first half of its dimensions against the second.
    pub(crate) fn rotate(&self, position: usize, head: &mut [f32]) {
        let row = &self.table[position * 2 * self.half..][..2 * self.half];
        let (cos, sin) = row.split_at(self.half);
        let (first, second) = head[..2 * self.half].split_at_mut(self.half);
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }

    /// From the gradient of a rotated head to that of the head, in place.
    pub(crate) fn rotate_back(&self, position: usize, head: &mut [f32]) {
        let row = &self.table[position * 2 * self.half..][..2 * self.half];
        let (cos, sin) = row.split_at(self.half);
        let (first, second) = head[..2 * self.half].split_at_mut(self.half);
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos + *b * sin, *b * cos - *a * sin);
        }
    }

    /// Rotates a head at a prepared position, each dimension of even number against the next.
    pub(crate) fn rotate_pairs(&self, position: usize, head: &mut [f32]) {
        let row = &self.table[position * 2 * self.half..][..2 * self.half];
        let (cos, sin) = row.split_at(self.half);
        for ((pair, cos), sin) in head.as_chunks_mut().0.iter_mut().zip(cos).zip(sin) {
            let [a, b] = *pair;
            *pair = [a * cos - b * sin, b * cos + a * sin];
        }
    }
}
