//! The numbers in the names of claims.

use parking_lot::Mutex;

/// Gives each claim on a lease a number that no other claim on it has, and uses the numbers of those that are gone again.
///
/// ⚠ A number may only come back if no copy of a request can create or delete its claim any more: the claim's request was sent
/// once and answered, and the claim was deleted by its revision. All others are never used again.
#[derive(Debug, Default)]
pub(super) struct Numbers(Mutex<Pool>);

#[derive(Debug, Default)]
struct Pool {
    free: Vec<u64>,
    next: u64,
}

impl Numbers {
    pub(super) fn take(&self) -> u64 {
        let mut pool = self.0.lock();
        if let Some(number) = pool.free.pop() {
            return number;
        }
        pool.next += 1;
        pool.next
    }

    pub(super) fn give_back(&self, number: u64) {
        self.0.lock().free.push(number);
    }
}
