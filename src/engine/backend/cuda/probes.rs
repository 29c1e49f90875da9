//! The directions that the device projects the residual stream on, and the states it copies out: the axes of all running sequences, each
//! once, in one table ordered by site. A row's dot products follow that order.

use std::sync::Arc;

use tiltmeter_kernels::gpu::{Gpu, Memory};

use tiltmeter_model::probe::{ProbePlan, Site};

/// Unused directions are dropped beyond this number.
const MOST_KEPT: usize = 512;

/// What the rows of a pass ask for.
#[derive(Clone, Debug, Default)]
pub struct ProbeRequest {
    pub plans: Vec<Arc<ProbePlan>>,
    /// Sites whose whole states are wanted.
    pub states: Vec<Site>,
}

impl ProbeRequest {
    pub fn plan(&mut self, plan: &Arc<ProbePlan>) {
        if !self.plans.iter().any(|known| Arc::ptr_eq(known, plan)) {
            self.plans.push(plan.clone());
            self.states.extend(&plan.vectors);
        }
    }
}

/// The directions of one site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteAxes {
    pub site: Site,
    /// Where its dot products begin in a row of them.
    pub first: usize,
    pub count: usize,
}

/// The table of directions as the device has it.
#[derive(Default)]
pub struct Probes {
    /// Ordered by site.
    directions: Vec<(Site, Vec<f32>)>,
    sites: Vec<SiteAxes>,
    states: Vec<Site>,
    /// Columns of the probes of a plan.
    columns: Vec<(Arc<ProbePlan>, Vec<usize>)>,
    /// `[directions, width]` of f32; none while there are none.
    pub axes: Option<Memory>,
}

impl Probes {
    /// Whether the table covers every request; the result is cached per plan.
    pub fn cover(&mut self, wish: &ProbeRequest) -> bool {
        let unknown: Vec<&Arc<ProbePlan>> = wish.plans.iter().filter(|plan| self.known(plan).is_none()).collect();
        if !unknown.is_empty() && self.columns.len() > MOST_KEPT {
            self.columns.retain(|(plan, _)| wish.plans.iter().any(|wished| Arc::ptr_eq(wished, plan)));
        }
        for plan in unknown {
            let columns: Option<Vec<usize>> =
                plan.probes.iter().map(|probe| self.column(probe.site, &probe.unit)).collect();
            match columns {
                Some(columns) => self.columns.push((plan.clone(), columns)),
                None => return false,
            }
        }
        wish.states.iter().all(|site| self.states.contains(site))
    }

    fn known(&self, plan: &Arc<ProbePlan>) -> Option<&[usize]> {
        self.columns.iter().find(|(known, _)| Arc::ptr_eq(known, plan)).map(|(_, columns)| &columns[..])
    }

    fn column(&self, site: Site, unit: &[f32]) -> Option<usize> {
        self.directions.iter().position(|(s, u)| *s == site && *u == unit)
    }

    /// Adds requests. Directions that are no longer requested stay while there are few; states do not.
    pub fn merge(&mut self, gpu: &Gpu, wish: &ProbeRequest) -> tiltmeter_kernels::gpu::Result<()> {
        if self.directions.len() > MOST_KEPT {
            *self = Self::default();
        }
        let mut plans: Vec<Arc<ProbePlan>> = self.columns.drain(..).map(|(plan, _)| plan).collect();
        for plan in &wish.plans {
            if !plans.iter().any(|known| Arc::ptr_eq(known, plan)) {
                plans.push(plan.clone());
            }
        }
        for probe in plans.iter().flat_map(|plan| &plan.probes) {
            if self.column(probe.site, &probe.unit).is_none() {
                self.directions.push((probe.site, probe.unit.clone()));
            }
        }
        self.directions.sort_by_key(|(site, _)| *site);
        self.states = wish.states.clone();
        self.states.sort_unstable();
        self.states.dedup();
        self.sites.clear();
        for (column, (site, _)) in self.directions.iter().enumerate() {
            match self.sites.last_mut() {
                Some(last) if last.site == *site => last.count += 1,
                _ => self.sites.push(SiteAxes { site: *site, first: column, count: 1 }),
            }
        }
        for plan in plans {
            let columns = plan.probes.iter().filter_map(|probe| self.column(probe.site, &probe.unit)).collect();
            self.columns.push((plan, columns));
        }
        let table: Vec<f32> = self.directions.iter().flat_map(|(_, unit)| unit).copied().collect();
        self.axes = if table.is_empty() { None } else { Some(gpu.upload(&table)?) };
        Ok(())
    }

    /// Dot products of a row.
    pub fn width(&self) -> usize {
        self.directions.len()
    }

    pub fn axes_of(&self, site: Site) -> Option<SiteAxes> {
        self.sites.iter().copied().find(|axes| axes.site == site)
    }

    /// Sites whose whole states are handed over, in the order of the forward pass.
    pub fn states(&self) -> &[Site] {
        &self.states
    }

    /// Where the projections of a plan's probes stand in a row.
    pub fn columns(&self, plan: &Arc<ProbePlan>) -> &[usize] {
        self.known(plan).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use tiltmeter_kernels::gpu::emulated::Emulated;

    use super::*;
    use tiltmeter_model::probe::{Probe, Span};

    fn plan(probes: &[(usize, f32)]) -> Arc<ProbePlan> {
        let probe =
            |&(layer, x): &(usize, f32)| Probe { name: "a".into(), site: Site::BlockOut(layer), unit: vec![x; 16] };
        Arc::new(ProbePlan {
            probes: probes.iter().map(probe).collect(),
            span: Span::Content,
            vectors: vec![Site::BlockOut(2)],
        })
    }

    #[test]
    fn every_direction_is_there_once_and_found_by_every_plan() {
        let gpu = Emulated::gpu();
        let mut probes = Probes::default();
        let (one, two) = (plan(&[(3, 1.0), (1, 2.0)]), plan(&[(1, 5.0), (3, 1.0)]));
        let mut wish = ProbeRequest::default();
        wish.plan(&one);
        assert!(!probes.cover(&wish));
        probes.merge(&gpu, &wish).unwrap();
        assert!(probes.cover(&wish));
        assert_eq!((probes.width(), probes.columns(&one)), (2, &[1, 0][..]));
        wish.plan(&two);
        assert!(!probes.cover(&wish));
        probes.merge(&gpu, &wish).unwrap();
        assert_eq!(probes.width(), 3);
        assert_eq!((probes.columns(&one), probes.columns(&two)), (&[2, 0][..], &[1, 2][..]));
        assert_eq!(probes.axes_of(Site::BlockOut(1)), Some(SiteAxes { site: Site::BlockOut(1), first: 0, count: 2 }));
        assert_eq!(probes.axes_of(Site::BlockOut(2)), None);
        assert_eq!(probes.states(), [Site::BlockOut(2)]);
        let again = plan(&[(3, 1.0)]);
        wish.plan(&again);
        assert!(probes.cover(&wish), "the same direction in another plan is no new one");
        assert_eq!(probes.columns(&again), [2]);
        let table = probes.axes.as_ref().unwrap().all().read::<f32>(48).unwrap();
        assert_eq!((table[0], table[16], table[32]), (2.0, 5.0, 1.0));
    }
}
