//! The locks of a database file that stands in front of another.

/// The locks of a [`redb::StorageBackend`] are those of the file that it stands in front of.
macro_rules! locks_of {
    (self.$($file:tt).+) => {
        fn try_lock_range(
            &self,
            start: ::std::ops::Bound<u64>,
            end: ::std::ops::Bound<u64>,
        ) -> Result<bool, ::redb::BackendError> {
            self.$($file).+.try_lock_range(start, end)
        }

        fn try_lock_shared_range(
            &self,
            start: ::std::ops::Bound<u64>,
            end: ::std::ops::Bound<u64>,
        ) -> Result<bool, ::redb::BackendError> {
            self.$($file).+.try_lock_shared_range(start, end)
        }

        fn lock_range(
            &self,
            start: ::std::ops::Bound<u64>,
            end: ::std::ops::Bound<u64>,
        ) -> Result<(), ::redb::BackendError> {
            self.$($file).+.lock_range(start, end)
        }

        fn lock_shared_range(
            &self,
            start: ::std::ops::Bound<u64>,
            end: ::std::ops::Bound<u64>,
        ) -> Result<(), ::redb::BackendError> {
            self.$($file).+.lock_shared_range(start, end)
        }

        fn unlock_range(
            &self,
            start: ::std::ops::Bound<u64>,
            end: ::std::ops::Bound<u64>,
        ) -> Result<(), ::redb::BackendError> {
            self.$($file).+.unlock_range(start, end)
        }

        fn query_lock_range(
            &self,
            start: ::std::ops::Bound<u64>,
            end: ::std::ops::Bound<u64>,
        ) -> Result<bool, ::redb::BackendError> {
            self.$($file).+.query_lock_range(start, end)
        }
    };
}
pub(super) use locks_of;
