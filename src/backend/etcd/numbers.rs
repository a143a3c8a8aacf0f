//! The numbers in the names of claims.

use parking_lot::Mutex;

/// The numbers of the claims on a lease: unique among the claims that may exist, and reused afterwards.
///
/// ⚠ A number may only be given back if no copy of a request can create or delete its claim any more: the claim's request was sent
/// once and answered, and the claim was deleted by its revision. All others are never reused.
#[derive(Debug, Default)]
pub(super) struct Numbers(Mutex<Pool>);

#[derive(Debug, Default)]
struct Pool {
    free: Vec<u64>,
    next: u64,
}

impl Numbers {
    /// Returns a number that no claim has.
    pub(super) fn take(&self) -> u64 {
        let mut pool = self.0.lock();
        if let Some(number) = pool.free.pop() {
            return number;
        }
        pool.next += 1;
        pool.next
    }

    /// Allows a number to be reused.
    pub(super) fn give_back(&self, number: u64) {
        self.0.lock().free.push(number);
    }
}
