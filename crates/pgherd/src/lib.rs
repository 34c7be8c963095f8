//! pgherd
