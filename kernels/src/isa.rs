//! The instruction-set tiers, and which of them this process uses.
//!
//! The tier is a speed switch alone: every kernel gives the same bits on all of them. `TILTMETER_ISA` (`portable`,
//! `avx2`, `avx512`, `neon`) overrides the choice; it is read once.
//!
//! Must not know: models, engine.

use std::sync::OnceLock;

/// An instruction-set tier the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust with `f32::mul_add`: any CPU, slow where the fused multiply-add is a library call.
    Portable,
    /// 256-bit registers with AVX2 and FMA.
    Avx2,
    /// 512-bit registers with AVX-512F.
    Avx512,
    /// 128-bit registers of 64-bit Arm.
    Neon,
}

impl Isa {
    /// Every tier, slowest first.
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512];

    /// The name `TILTMETER_ISA` knows the tier by.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        }
    }

    /// The tiers this CPU can run, slowest first; never empty.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_here()).collect()
    }

    fn is_here(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => is_x86_feature_detected!("avx512f") && Isa::Avx2.is_here(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The tier a wish stands for; without a wish the fastest one here.
    ///
    /// # Errors
    /// A sentence for the user when the name is unknown or this CPU lacks the tier.
    pub fn choose(wish: Option<&str>) -> Result<Isa, String> {
        let available = Isa::available();
        let names = || {
            let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
            names.join(", ")
        };
        let Some(wish) = wish.filter(|wish| !wish.is_empty()) else {
            return Ok(*available.last().expect("the portable tier is always here"));
        };
        match Isa::ALL.into_iter().find(|isa| isa.name() == wish) {
            Some(isa) if isa.is_here() => Ok(isa),
            Some(_) => Err(format!("TILTMETER_ISA={wish}: this CPU lacks it; here are {}", names())),
            None => Err(format!("TILTMETER_ISA={wish}: no such tier; here are {}", names())),
        }
    }

    /// The tier of this process: `TILTMETER_ISA` if set, else the fastest one here.
    ///
    /// # Panics
    /// When `TILTMETER_ISA` names a tier that this CPU lacks; [`Isa::choose`] says so without a panic.
    pub fn active() -> Isa {
        static ACTIVE: OnceLock<Isa> = OnceLock::new();
        *ACTIVE.get_or_init(|| {
            let wish = std::env::var("TILTMETER_ISA").ok();
            Isa::choose(wish.as_deref()).unwrap_or_else(|problem| panic!("{problem}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_granted_or_refused_with_the_way_out() {
        assert_eq!(Isa::choose(Some("portable")), Ok(Isa::Portable));
        assert_eq!(Isa::choose(None), Isa::choose(Some("")));
        let problem = Isa::choose(Some("mmx")).unwrap_err();
        assert!(problem.contains("mmx") && problem.contains("portable"));
    }
}
