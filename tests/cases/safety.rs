//! Nothing that is downloaded runs, hangs or draws.
