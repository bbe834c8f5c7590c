DROP FUNCTION throttle_slots(text, bigint, smallint, boolean, bigint);
DROP FUNCTION reserve_slots(text, bigint, smallint, integer, integer, bigint, integer, integer, integer, boolean,
                            bigint[], bigint[], bigint[], bigint[], integer[], bigint);
DROP FUNCTION take_batches(bigint[], bigint, bigint[], integer[], bigint, bigint[], bigint[], bigint,
                           bigint, bigint, bigint, integer, integer, integer, integer, bigint, boolean);
DROP FUNCTION take_slots(bigint[], bigint, bigint[], bigint[], bigint,
                         bigint, bigint, bigint, integer, integer, bigint, bigint, boolean);
DROP TABLE budgets, budget_keys;
