//! The passes over key blocks: scores, softmax weights and weighted values of a tile of rows.

use super::*;

impl Rows<'_> {
    /// All blocks that a row sees.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    pub(super) unsafe fn blocks<V: Lanes, const BF16: bool>(&self, parts: &Parts) {
        let end = self.first_pos + self.tokens;
        let heads = self.kv_heads.len();
        let first = self.shape.first_seen(self.first_pos) / KEYS * KEYS;
        let mut block = self.find(Place { head: 0, from: first });
        for from in (first..end).step_by(KEYS) {
            for head in 0..heads {
                let next = if head + 1 < heads {
                    Place { head: head + 1, from }
                } else {
                    Place { head: 0, from: from + KEYS }
                };
                let next = self.find(next);
                // SAFETY: the caller's promise.
                unsafe {
                    if BF16 && self.widens() {
                        let block = self.widen::<V>(parts, &block);
                        self.block::<V, false>(parts, Place { head, from }, &block, None);
                    } else {
                        self.block::<V, BF16>(parts, Place { head, from }, &block, Some(&next));
                    }
                }
                block = next;
            }
        }
    }

    /// One block of one head for all rows; `next` is the one after it.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    unsafe fn block<V: Lanes, const BF16: bool>(
        &self,
        parts: &Parts,
        Place { head, from }: Place,
        block: &Block,
        next: Option<&Block>,
    ) {
        let rows = self.rows();
        // SAFETY: the caller's promise.
        unsafe {
            for row in (0..rows).step_by(ROWS) {
                let count = ROWS.min(rows - row);
                let seen = &self.seen(row, count, from)[..count];
                // Rows of a tile are consecutive.
                let (first, last) = (seen[0], seen[count - 1]);
                if first.is_empty() && last.is_empty() {
                    continue;
                }
                let next = next.filter(|_| row == 0);
                let queries = self.queries(parts, head, row);
                self.score::<V, BF16>(parts, queries, block, next, count, Keys { first: first.first, end: last.end });
                let scales = self.weigh::<V>(parts, head * rows + row, seen);
                self.values::<V, BF16>(parts, block, next, seen);
                for r in 0..count {
                    if let Some(scale) = scales[r] {
                        let total = parts.totals.add((head * rows + row + r) * parts.stride);
                        let block = parts.block.add(r * parts.stride);
                        for i in (0..parts.stride).step_by(LANES) {
                            let sum = V::load(total.add(i)).fma(V::splat(scale), V::load(block.add(i)));
                            sum.store(total.add(i));
                        }
                    }
                }
            }
        }
    }

    /// Scores of `count` rows for the keys `seen` by any of them, by groups of sixteen.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    unsafe fn score<V: Lanes, const BF16: bool>(
        &self,
        parts: &Parts,
        queries: *const f32,
        block: &Block,
        next: Option<&Block>,
        count: usize,
        seen: Keys,
    ) {
        let score = Score {
            queries,
            keys: &block.keys,
            ahead: next.map(|next| &next.keys),
            dim: self.shape.pages.head_dim,
            out: parts.scores,
        };
        // SAFETY: groups are whole; the rest is the caller's promise.
        unsafe { score.run::<V, BF16>(count, seen.first / LANES..seen.end.div_ceil(LANES)) }
    }

    /// Turns the scores of a tile's rows into weights, and returns the factor that rescales their totals; none for a row that sees nothing
    /// here. The rows' running values are at `running`.
    ///
    /// One step for all rows after the other: a row alone would wait for its maximum, its weights and its sum in turn.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    unsafe fn weigh<V: Lanes>(&self, parts: &Parts, running: usize, seen: &[Keys]) -> [Option<f32>; ROWS] {
        let mut maxima = [0.0; ROWS];
        let mut falls = [0.0; LANES];
        let mut scales = [None; ROWS];
        // SAFETY: the caller's promise.
        unsafe {
            for (r, &seen) in seen.iter().enumerate().filter(|(_, seen)| !seen.is_empty()) {
                let scores = parts.scores.add(r * KEYS);
                let mut s = [V::splat(0.0); GROUPS];
                for (c, s) in s.iter_mut().enumerate() {
                    *s = V::load(scores.add(c * LANES)).mul(V::splat(self.shape.scale));
                    if seen != Keys::ALL {
                        let lane = |key: usize| key.saturating_sub(c * LANES).min(LANES);
                        *s = s.keep(lane(seen.first), lane(seen.end), f32::NEG_INFINITY);
                    }
                    s.store(scores.add(c * LANES));
                }
                let old = *parts.maxima.add(running + r);
                let max = s[0].max(s[1]).max(s[2].max(s[3])).maximum();
                maxima[r] = if old > max { old } else { max };
                falls[r] = old - maxima[r];
                scales[r] = (old == maxima[r]).then_some(1.0);
                *parts.maxima.add(running + r) = maxima[r];
            }
            // The vector function keeps the bits the same everywhere.
            lanes::exp(V::load(falls.as_ptr())).store(falls.as_mut_ptr());
            for (r, _) in seen.iter().enumerate().filter(|(_, seen)| !seen.is_empty()) {
                let scores = parts.scores.add(r * KEYS);
                let mut sum = V::splat(0.0);
                for c in 0..GROUPS {
                    let weight = lanes::exp(V::load(scores.add(c * LANES)).sub(V::splat(maxima[r])));
                    weight.store(scores.add(c * LANES));
                    sum = sum.add(weight);
                }
                let scale = scales[r].unwrap_or(falls[r]);
                scales[r] = Some(scale);
                let total = parts.sums.add(running + r);
                *total = (*total).mul_add(scale, sum.sum());
            }
        }
        scales
    }

    /// The block's weighted sum of values for the rows of a tile: keys that all of them see together, the others row by row, each row's
    /// keys in order.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    unsafe fn values<V: Lanes, const BF16: bool>(
        &self,
        parts: &Parts,
        block: &Block,
        next: Option<&Block>,
        seen: &[Keys],
    ) {
        let count = seen.len();
        let common = Keys { first: seen[count - 1].first, end: seen[0].end };
        // SAFETY: the caller's promise.
        unsafe {
            parts.block.write_bytes(0, count * parts.stride);
            if common.is_empty() {
                for (r, &seen) in seen.iter().enumerate() {
                    self.add_values::<V, BF16>(parts, block, next, r, 1, seen);
                }
                return;
            }
            for (r, seen) in seen.iter().enumerate() {
                self.add_values::<V, BF16>(parts, block, None, r, 1, Keys { end: common.first, ..*seen });
            }
            self.add_values::<V, BF16>(parts, block, next, 0, count, common);
            for (r, seen) in seen.iter().enumerate() {
                self.add_values::<V, BF16>(parts, block, None, r, 1, Keys { first: common.end, ..*seen });
            }
        }
    }

    /// Goes on with the block sums of `count` rows of the tile over `keys`, as far at a time as they lie one after the other.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid; all rows see all of `keys`.
    #[inline(always)]
    unsafe fn add_values<V: Lanes, const BF16: bool>(
        &self,
        parts: &Parts,
        block: &Block,
        next: Option<&Block>,
        r: usize,
        count: usize,
        keys: Keys,
    ) {
        let dim = self.shape.pages.head_dim;
        let per_word = if BF16 { 2 } else { 1 };
        let mut key = keys.first;
        while key < keys.end {
            let first = key / LANES;
            let mut last = first;
            let follows =
                |group: usize| block.values[group].wrapping_add(LANES / per_word * dim) == block.values[group + 1];
            while (last + 1) * LANES < keys.end && follows(last) {
                last += 1;
            }
            let end = keys.end.min((last + 1) * LANES);
            let within = key % LANES / per_word * dim;
            let values = Values {
                weights: parts.scores.wrapping_add(r * KEYS + key),
                values: block.values[first].wrapping_add(within),
                ahead: next.map(|next| next.values[first].wrapping_add(within)),
                keys: end - key,
                from_odd: key % 2 == 1,
                dim,
                out: parts.block.wrapping_add(r * parts.stride),
                stride: parts.stride,
            };
            // SAFETY: the values lie there; the rest is the caller's promise.
            unsafe { values.run::<V, BF16>(count) };
            key = end;
        }
    }

    /// Writes out = total / sum.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    pub(super) unsafe fn finish<V: Lanes>(&self, parts: &Parts) {
        let dim = self.shape.pages.head_dim;
        let rows = self.rows();
        for head in 0..self.kv_heads.len() {
            for row in 0..rows {
                let at = head * rows + row;
                // SAFETY: the caller's promise.
                unsafe {
                    let total = parts.totals.add(at * parts.stride);
                    let sum = V::splat(*parts.sums.add(at));
                    let out = self.out.add(self.offset(head, row));
                    for i in (0..dim).step_by(LANES) {
                        let value = V::load(total.add(i)).div(sum);
                        value.store_first(out.add(i), LANES.min(dim - i));
                    }
                }
            }
        }
    }
}
