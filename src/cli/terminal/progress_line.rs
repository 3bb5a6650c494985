//! How far a stage is, in one line: all there is to say in a pipe, and on a terminal what fits, of which the time left goes last.
//! Unaware of terminals.

use std::time::Duration;

use unicode_width::UnicodeWidthStr as _;

use crate::engine::kind::stage::Progress;

/// Columns of the bar where there is room, and where there is little.
const BARS: [usize; 2] = [24, 10];

/// Before the name of the stage, so that it stands below the text of other lines.
const INDENT: &str = "          ";

/// What is known of a stage that goes on, in the order in which it is said.
pub struct ProgressLine {
    /// `1880 of 9400 images`
    count: String,
    /// `20%`
    percent: String,
    /// From 0 to 1.
    share: f64,
    /// `loss 0.0834`
    values: Vec<String>,
    /// `3.13 images/s`
    rate: Option<String>,
    /// `40m 00s left`
    left: Option<String>,
}

impl ProgressLine {
    /// `from`: where the count stood at the first report, `elapsed` ago.
    pub fn of(progress: &Progress, from: u64, elapsed: Duration) -> Self {
        let Progress { done, total, .. } = *progress;
        let unit = if progress.unit.is_empty() { String::new() } else { format!(" {}", progress.unit) };
        let share = done as f64 / total.max(1) as f64;
        let newly = done.saturating_sub(from);
        let seconds = elapsed.as_secs_f64();
        let rate = (newly > 0 && seconds > 0.5).then(|| newly as f64 / seconds);
        let said = |rate: f64| {
            if rate >= 0.1 { format!("{}{unit}/s", number(rate)) } else { format!("{}{unit}/min", number(rate * 60.0)) }
        };
        let left = |rate: f64| format!("{} left", duration((total - done) as f64 / rate));
        Self {
            count: format!("{done} of {total}{unit}"),
            percent: format!("{:.0}%", (100.0 * share).floor()),
            share: share.clamp(0.0, 1.0),
            values: progress.values.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect(),
            rate: rate.map(said),
            left: rate.filter(|_| total > done).map(left),
        }
    }

    /// `1880 of 9400 images, loss 0.0834, 3.13 images/s, 40m 00s left`
    pub fn whole(&self) -> String {
        self.words(&self.count, self.values.len(), true)
    }

    fn words(&self, count: &str, values: usize, with_rate: bool) -> String {
        let rate = self.rate.as_deref().filter(|_| with_rate);
        let values = self.values.iter().take(values).map(String::as_str);
        let parts: Vec<&str> = [count].into_iter().filter(|count| !count.is_empty()).chain(values).chain(rate).collect();
        parts.into_iter().chain(self.left.as_deref()).collect::<Vec<_>>().join(", ")
    }

    /// The line of a stage with a bar, in at most `width` columns: what matters least is left out first, the time left last.
    pub fn fitted(&self, stage: &str, width: usize) -> String {
        let bar = |columns: usize| {
            let filled = (self.share * columns as f64) as usize;
            let head = if filled < columns { ">" } else { "" };
            let done = "=".repeat(filled);
            format!("[{done}{head}{}] ", " ".repeat(columns.saturating_sub(filled + 1)))
        };
        let [wide, narrow] = BARS;
        let mut forms: Vec<String> = Vec::new();
        for values in (0..=self.values.len()).rev() {
            forms.push(format!("{INDENT}{stage} {}{}", bar(wide), self.words(&self.count, values, true)));
        }
        forms.push(format!("{INDENT}{stage} {}{}", bar(wide), self.words(&self.count, 0, false)));
        forms.push(format!("{stage} {}{}", bar(narrow), self.words(&self.count, 0, false)));
        forms.push(format!("{stage} {}", self.words(&self.count, 0, false)));
        forms.push(format!("{stage} {}", self.words(&self.percent, 0, false)));
        forms.extend(self.left.clone());
        forms.push(self.percent.clone());
        let last = forms.last().cloned().unwrap_or_default();
        forms.into_iter().find(|form| form.width() <= width).unwrap_or(last)
    }
}

/// Three digits that count.
fn number(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        "0".to_string()
    } else if size < 0.001 {
        format!("{value:.2e}")
    } else if size < 1.0 {
        format!("{value:.4}")
    } else if size < 10.0 {
        format!("{value:.2}")
    } else if size < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// `0.3s`, `42s`, `2m 10s`, `1h 05m`
pub fn duration(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{seconds:.1}s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        _ => format!("{}h {:02}m", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(from: u64) -> ProgressLine {
        let values = vec![("loss", 0.08341), ("rate", 1e-4)];
        let progress = Progress { done: 1880, total: 9400, unit: "images", values };
        ProgressLine::of(&progress, from, Duration::from_secs(300))
    }

    #[test]
    fn progress_says_count_values_rate_and_time_left() {
        assert_eq!(line(940).whole(), "1880 of 9400 images, loss 0.0834, rate 1.00e-4, 3.13 images/s, 40m 00s left");
        assert_eq!(line(1880).whole(), "1880 of 9400 images, loss 0.0834, rate 1.00e-4");
    }

    #[test]
    fn a_narrow_terminal_loses_the_time_left_last() {
        let line = line(940);
        let all = "          train [====>                   ] 1880 of 9400 images, loss 0.0834, rate 1.00e-4, 3.13 images/s, 40m 00s left";
        assert_eq!(line.fitted("train", 200), all);
        assert_eq!(line.fitted("train", all.len()), all);
        let fitted = |width: usize| line.fitted("train", width);
        assert_eq!(fitted(all.len() - 1), all.replace(", rate 1.00e-4", ""));
        assert_eq!(fitted(80), "          train [====>                   ] 1880 of 9400 images, 40m 00s left");
        assert_eq!(fitted(60), "train [==>       ] 1880 of 9400 images, 40m 00s left");
        assert_eq!(fitted(40), "train 1880 of 9400 images, 40m 00s left");
        assert_eq!(fitted(30), "train 20%, 40m 00s left");
        assert_eq!(fitted(15), "40m 00s left");
        for width in 0..200 {
            let text = fitted(width);
            assert!(text.len() <= width || width < 3, "{width}: {text}");
            assert!(text.ends_with("40m 00s left") || width < 12, "{width}: {text}");
        }
    }

    #[test]
    fn names_of_variants_do_not_push_the_time_left_out() {
        assert_eq!(line(940).fitted("train[network.rank=16]/latents", 40), "40m 00s left");
    }

    #[test]
    fn a_full_bar_has_no_head() {
        let progress = Progress { done: 4, total: 4, unit: "", values: Vec::new() };
        let line = ProgressLine::of(&progress, 0, Duration::ZERO);
        assert_eq!(line.fitted("crop", 80), format!("{INDENT}crop [{}] 4 of 4", "=".repeat(24)));
    }

    #[test]
    fn durations_have_two_units_at_most() {
        let cases = [(0.04, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (59.6, "1m 00s"), (130.0, "2m 10s"), (3900.0, "1h 05m")];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
    }
}
