//! The library inside of others: layers of axum and tonic, and jobs by a scheduler, migrations and cron.

mod axum;
mod jobs;
mod layer;
mod tonic;
