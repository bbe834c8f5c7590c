-- Since when the service may have accepted a call with this pair, where that isn't `first_call_at`: its 120 s of memory
-- for repeats count from here. 'infinity': no call yet, since every one before was surely not carried out, or the history
-- had the time to list it and showed none; then it is the next call's time.
ALTER TABLE messages ADD COLUMN pair_since timestamptz;
ALTER TABLE calls ADD COLUMN pair_since timestamptz;
