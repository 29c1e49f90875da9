//! Capture of hidden states in the generating pass: per-token projections `h_t · a/‖a‖` in f32 with a fixed summation order,
//! token-weighted mean vectors in f64, and raw states on request.

use std::{ops::Range, sync::Arc};

use tiltmeter_kernels::dot;

use tiltmeter_model::probe::{ProbePlan, ProbeReadout, Readout, Site, SiteVector, Span};

/// What one span of tokens has gathered so far.
struct Slot {
    /// Token positions in the sequence.
    span: Range<usize>,
    tokens: usize,
    /// Per probe of the plan.
    projections: Vec<Vec<f32>>,
    /// Per vector site of the plan.
    sums: Vec<Vec<f64>>,
}

/// Gathers the readouts of one sequence: one per span.
pub struct Recorder {
    plan: Arc<ProbePlan>,
    slots: Vec<Slot>,
}

impl Recorder {
    pub fn new(plan: Arc<ProbePlan>, spans: Vec<Range<usize>>) -> Self {
        let slots = spans
            .into_iter()
            .map(|span| Slot {
                span,
                tokens: 0,
                projections: vec![Vec::new(); plan.probes.len()],
                sums: vec![Vec::new(); plan.vectors.len()],
            })
            .collect();
        Self { plan, slots }
    }

    pub fn sites(&self) -> impl Iterator<Item = Site> {
        self.plan.probes.iter().map(|probe| probe.site).chain(self.plan.vectors.iter().copied())
    }

    /// The first position that must be fed for the spans to be whole.
    pub fn first_position(&self) -> usize {
        self.slots.iter().map(|slot| slot.span.start).min().unwrap_or(usize::MAX)
    }

    /// Whether the token at `position` is to be measured.
    pub fn wants(&self, position: usize) -> bool {
        self.slots.iter().any(|slot| slot.span.contains(&position))
    }

    /// Whether the stop token that ends a reply is measured with it.
    pub fn takes_stop(&self) -> bool {
        self.plan.span == Span::ContentAndStop
    }

    /// Counts the rows of one pass; call once a pass.
    pub fn advance(&mut self, first: usize, len: usize) {
        for slot in &mut self.slots {
            slot.tokens += overlap(&slot.span, first, len).len();
        }
    }

    pub fn plan(&self) -> &Arc<ProbePlan> {
        &self.plan
    }

    /// Whether any of the positions from `first` on is to be measured.
    pub fn measures(&self, first: usize, len: usize) -> bool {
        self.slots.iter().any(|slot| !overlap(&slot.span, first, len).is_empty())
    }

    /// Takes in projections of the positions from `first` on that were computed elsewhere: of the row and the number of the probe.
    pub fn project(&mut self, first: usize, len: usize, projection: impl Fn(usize, usize) -> f32) {
        for slot in &mut self.slots {
            let rows = overlap(&slot.span, first, len);
            for (probe, projections) in slot.projections.iter_mut().enumerate() {
                projections.extend(rows.clone().map(|position| projection(position - first, probe)));
            }
        }
    }

    /// Takes in the states `[len, width]` of the positions from `first` on.
    pub fn observe(&mut self, site: Site, first: usize, states: &[f32], width: usize) {
        let len = states.len() / width;
        for slot in &mut self.slots {
            let rows = overlap(&slot.span, first, len);
            let states = &states[(rows.start - first) * width..(rows.end - first) * width];
            for (probe, projections) in self.plan.probes.iter().zip(&mut slot.projections) {
                if probe.site == site {
                    projections.extend(states.chunks_exact(width).map(|row| dot(row, &probe.unit)));
                }
            }
        }
        self.observe_vectors(site, first, states, width);
    }

    /// Takes in the same for mean vectors alone.
    pub fn observe_vectors(&mut self, site: Site, first: usize, states: &[f32], width: usize) {
        let len = states.len() / width;
        for slot in &mut self.slots {
            let rows = overlap(&slot.span, first, len);
            let states = &states[(rows.start - first) * width..(rows.end - first) * width];
            for (&vector, sum) in self.plan.vectors.iter().zip(&mut slot.sums) {
                if vector == site {
                    sum.resize(width, 0.0);
                    for row in states.chunks_exact(width) {
                        sum.iter_mut().zip(row).for_each(|(s, &x)| *s += f64::from(x));
                    }
                }
            }
        }
    }

    /// One readout per span; `None` in place of the whole if a projection is not finite.
    pub fn finish(self) -> Option<Vec<Readout>> {
        let readout = |slot: Slot| {
            if slot.tokens == 0 {
                return Some(Readout::default());
            }
            let projections = self.plan.probes.iter().zip(slot.projections).map(|(probe, per_token)| {
                let mean = (per_token.iter().map(|&p| f64::from(p)).sum::<f64>() / per_token.len() as f64) as f32;
                mean.is_finite().then(|| ProbeReadout { name: probe.name.clone(), site: probe.site, mean, per_token })
            });
            let vectors = self.plan.vectors.iter().zip(slot.sums).map(|(&site, sum)| SiteVector {
                site,
                mean: sum.into_iter().map(|s| (s / slot.tokens as f64) as f32).collect(),
            });
            Some(Readout {
                measured_tokens: slot.tokens,
                vectors: vectors.collect(),
                projections: projections.collect::<Option<_>>()?,
            })
        };
        self.slots.into_iter().map(readout).collect()
    }
}

fn overlap(span: &Range<usize>, first: usize, len: usize) -> Range<usize> {
    let start = span.start.clamp(first, first + len);
    start..span.end.clamp(start, first + len)
}

/// Raw states of a whole sequence, for tools and tests.
#[derive(Clone, Debug, Default)]
pub struct RawStates {
    pub sites: Vec<Site>,
    /// Per site `[tokens, hidden]`.
    pub states: Vec<Vec<f32>>,
    pub with_logits: bool,
    /// `[tokens, vocab]`.
    pub logits: Vec<f32>,
}

impl RawStates {
    pub fn new(sites: Vec<Site>, with_logits: bool) -> Self {
        Self { states: vec![Vec::new(); sites.len()], sites, with_logits, logits: Vec::new() }
    }

    pub fn observe(&mut self, site: Site, rows: &[f32]) {
        for (_, states) in self.sites.iter().zip(&mut self.states).filter(|(s, _)| **s == site) {
            states.extend_from_slice(rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiltmeter_model::probe::Probe;

    /// Feeding in any chunks gives the same readout, and each token is counted once.
    #[test]
    fn chunks_do_not_matter() {
        let width = 8;
        let states: Vec<f32> = (0..width * 20).map(|i| (i as f32 * 0.37).sin()).collect();
        let unit = vec![(1.0 / width as f32).sqrt(); width];
        let site = Site::BlockOut(1);
        let plan = Arc::new(ProbePlan {
            probes: vec![Probe { name: "a".into(), site, unit }],
            span: Span::Content,
            vectors: vec![site],
        });
        let read = |chunk: usize| {
            let mut recorder = Recorder::new(plan.clone(), vec![3..9, 9..usize::MAX]);
            for first in (0..20).step_by(chunk) {
                let len = chunk.min(20 - first);
                recorder.advance(first, len);
                recorder.observe(site, first, &states[first * width..(first + len) * width], width);
            }
            recorder.finish().unwrap()
        };
        let whole = read(20);
        assert_eq!((whole[0].measured_tokens, whole[1].measured_tokens), (6, 11));
        assert_eq!(whole[0].projections[0].per_token.len(), 6);
        for chunk in [1, 3, 7] {
            assert_eq!(read(chunk), whole);
        }
    }
}
