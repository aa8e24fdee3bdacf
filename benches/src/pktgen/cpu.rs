//! How busy was each core? From the kernel's own account (`/proc/stat`, proc(5)).

use serde::Serialize;

/// The account at one moment: (busy, all) ticks of each core.
#[derive(Debug, Clone, Default)]
pub struct Account(Vec<(u64, u64)>);

/// How busy a core was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CoreUse {
    pub core: usize,
    /// 0 to 100.
    pub busy_percent: f64,
}

impl Account {
    /// As it is now; empty where there is no such file.
    pub fn now() -> Self {
        Self::read(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    fn read(text: &str) -> Self {
        let cores = text.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu "));
        Self(cores.map(Self::core).collect())
    }

    /// `cpuN user nice system idle iowait irq softirq steal ...`
    fn core(line: &str) -> (u64, u64) {
        let ticks: Vec<u64> =
            line.split(' ').skip(1).filter_map(|w| w.parse().ok()).take(8).collect();
        let all = ticks.iter().sum();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        (all - idle, all)
    }

    /// How busy each core was since then.
    pub fn since(&self) -> Vec<CoreUse> {
        Self::between(self, &Self::now())
    }

    fn between(before: &Self, after: &Self) -> Vec<CoreUse> {
        let cores = before.0.iter().zip(&after.0).enumerate();
        cores
            .map(|(core, (a, b))| {
                let (busy, all) = (b.0.saturating_sub(a.0), b.1.saturating_sub(a.1));
                let busy_percent = if all == 0 { 0.0 } else { 100.0 * busy as f64 / all as f64 };
                CoreUse { core, busy_percent }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_between_two_readings() {
        let before = Account::read(
            "cpu  9 9\ncpu0 10 0 10 100 0 0 0 0 0 0\ncpu1 0 0 0 50 0 0 0 0\nintr 5\n",
        );
        let after =
            Account::read("cpu  9 9\ncpu0 40 0 30 150 0 0 0 0 7 0\ncpu1 0 0 0 50 0 0 0 0\n");
        let shares = Account::between(&before, &after);
        assert_eq!(shares.iter().map(|s| s.busy_percent).collect::<Vec<_>>(), [50.0, 0.0]);
    }
}
