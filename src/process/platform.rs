//! What differs between platforms.

/// Nanoseconds since an arbitrary start, on the platform's monotonic clock that includes suspend, where it has one.
///
/// - Linux and Android: `CLOCK_BOOTTIME` includes suspend.
/// - macOS and iOS: `CLOCK_MONOTONIC` includes suspend. (The clock behind their [`std::time::Instant`] does not.)
/// - Windows: the performance counter behind [`std::time::Instant`] includes sleep and hibernation, as Microsoft documents it.
/// - Elsewhere: not known.
#[cfg(unix)]
pub(crate) fn clock() -> u64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let id = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let id = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(id);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(not(unix))]
pub(crate) fn clock() -> u64 {
    use std::sync::LazyLock;
    use std::time::Instant;

    /// Far enough before the first reading that times before it can be computed.
    const START: u64 = 1 << 60;
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    let first = *FIRST;
    START.saturating_add(u64::try_from(Instant::now().saturating_duration_since(first).as_nanos()).unwrap_or(u64::MAX))
}

/// The host's name.
#[cfg(unix)]
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The host's name, as Windows gives it to each process; empty on platforms that have no such variable.
#[cfg(not(unix))]
pub(crate) fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_default()
}
