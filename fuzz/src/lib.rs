//! The drivers of the fuzz targets are the tests' own: `tests/api/drivers.rs` calls them as well.

#[path = "../../tests/support/broken.rs"]
mod broken;
#[path = "../../tests/support/drivers.rs"]
pub mod drivers;
