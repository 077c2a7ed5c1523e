//! Prints today's schema as the golden files have it: `api` what is asked, else what is stored and read.

use culvert_model::golden::Part;

fn main() {
    let part = match std::env::args().nth(1).as_deref() {
        Some("api") => Part::Api,
        _ => Part::Configuration,
    };
    print!(
        "{}",
        culvert_model::golden::render(culvert_model::schema::pool(), part)
    );
}
