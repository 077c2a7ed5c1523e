//! Prints today's schema as it is kept in `schemas/` when it is released.

use culvert_model::{golden, schema};

fn main() {
    print!("{}", golden::render(schema::pool()));
}
