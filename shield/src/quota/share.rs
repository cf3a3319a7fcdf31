//! What part of a tenant's quota one Shield may give out.
//!
//! Pure. Each Shield reckons for itself from what all told last, so two may
//! differ for a moment; nothing they do then exceeds what is written at each
//! function.

/// What is known of all Shields of the pool but this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Elsewhere {
    /// How many Shields there are.
    pub(super) shields: u64,
    /// What they use of the quota.
    pub(super) used: u64,
}

/// How many sessions, or rooms, there may be here: `told`, which the others
/// know of, and this Shield's even part of what is free. So however many come
/// everywhere at once, there are at most `shields` more than the quota.
pub(super) fn count(quota: u64, told: u64, elsewhere: Elsewhere) -> u64 {
    let free = quota.saturating_sub(told).saturating_sub(elsewhere.used);
    told + free.div_ceil(elsewhere.shields + 1)
}

/// What is known of a rate: what was used of late, here and elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) here: u64,
    pub(super) elsewhere: u64,
    /// Shields that had to refuse something for it.
    pub(super) hungry: u64,
}

/// What of a rate may be used here: what is used, and of what is free an even
/// part among those that want more; never less than the part by sessions.
/// Even parts also of what is used too much, or two Shields would swing.
///
/// From silence, each Shield may use the whole rate until it has heard that
/// others do, which is a second or two; later the sum is the rate.
pub(super) fn rate(quota: u64, fair: u64, used: Used) -> u64 {
    let Used {
        here,
        elsewhere,
        hungry,
    } = used;
    let wide = |number: u64| i128::from(number);
    let free = wide(quota) - wide(here) - wide(elsewhere);
    let part = wide(here) + free.div_euclid(wide(hungry) + 1);
    u64::try_from(part).unwrap_or(0).max(fair)
}

/// The part by sessions; by Shields where there are none.
pub(super) fn fair(quota: u64, here: u64, elsewhere: u64, shields: u64) -> u64 {
    let part = match u128::from(here) + u128::from(elsewhere) {
        0 => quota / (shields + 1),
        all => u64::try_from(u128::from(quota) * u128::from(here) / all).unwrap_or(quota),
    };
    part.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lets Shields with these sessions and demands run, each hearing what the
    /// others used in the second before; what each used in the last one.
    fn run(quota: u64, shields: &[(u64, u64)], seconds: usize) -> Vec<u64> {
        let mut parts: Vec<u64> = vec![quota; shields.len()];
        let mut used = vec![0; shields.len()];
        let sessions: u64 = shields.iter().map(|(sessions, _)| sessions).sum();
        for _ in 0..seconds {
            let mut hungry = 0;
            for (at, (_, wanted)) in shields.iter().enumerate() {
                used[at] = (*wanted).min(parts[at]);
                hungry += u64::from(*wanted > parts[at]);
            }
            let all: u64 = used.iter().sum();
            for (at, (own, wanted)) in shields.iter().enumerate() {
                let others = shields.len() as u64 - 1;
                let fair = fair(quota, *own, sessions - own, others);
                let known = Used {
                    here: used[at],
                    elsewhere: all - used[at],
                    hungry: hungry - u64::from(*wanted > parts[at]),
                };
                parts[at] = rate(quota, fair, known);
            }
        }
        used
    }

    #[test]
    fn one_alone_has_all_of_it_and_two_that_want_more_share_by_sessions() {
        assert_eq!(run(1_000, &[(10, 5_000), (90, 0)], 30), [1_000, 0]);
        let shared = run(1_000, &[(10, 5_000), (90, 5_000)], 30);
        assert_eq!(shared, [100, 900]);
        // What one leaves is the other's.
        assert_eq!(run(1_000, &[(50, 200), (50, 5_000)], 30), [200, 800]);
    }

    #[test]
    fn what_a_third_leaves_does_not_swing() {
        let shields = [(10, 100), (10, 5_000), (10, 5_000)];
        for seconds in 20..30 {
            let used = run(900, &shields, seconds);
            assert_eq!(used, [100, 400, 400]);
        }
    }

    #[test]
    fn a_count_is_shared_by_what_is_free() {
        let others = |shields, used| Elsewhere { shields, used };
        assert_eq!(count(10, 0, others(0, 0)), 10);
        assert_eq!(count(10, 0, others(1, 0)), 5);
        assert_eq!(count(10, 5, others(1, 0)), 8);
        assert_eq!(count(10, 9, others(1, 0)), 10);
        // Full, and lowered below what is there: nobody is sent away, and none comes.
        assert_eq!(count(10, 9, others(1, 1)), 9);
        assert_eq!(count(5, 9, others(1, 1)), 9);
    }

    proptest! {
        /// Shields that want more than there is use what there is.
        #[test]
        fn a_rate_is_used_up_and_not_exceeded(
            shields in prop::collection::vec((1_u64..200, 0_u64..5_000), 1..8),
            quota in 100_u64..10_000,
        ) {
            let wanted: u64 = shields.iter().map(|(_, wanted)| wanted).sum();
            let used: u64 = run(quota, &shields, 60).iter().sum();
            // Whole numbers, and at least 1 for each.
            let slack = shields.len() as u64 + 1;
            prop_assert!(used <= quota + slack, "{used} of {quota}");
            prop_assert!(used + slack >= wanted.min(quota), "{used} of {quota}, {wanted} wanted");
        }

        /// However many come everywhere between two reports.
        #[test]
        fn a_count_is_exceeded_by_no_more_than_the_shields(
            quota in 1_u64..1_000,
            rounds in prop::collection::vec(prop::collection::vec(0_u64..300, 4), 1..10),
        ) {
            let mut here = [0_u64; 4];
            for wishes in rounds {
                let told = here;
                for (at, wish) in wishes.into_iter().enumerate() {
                    let others = Elsewhere {
                        shields: 3,
                        used: told.iter().sum::<u64>() - told[at],
                    };
                    let most = count(quota, told[at], others);
                    here[at] = here[at].max(most.min(here[at] + wish));
                }
                prop_assert!(here.iter().sum::<u64>() <= quota + 3);
            }
        }
    }
}
