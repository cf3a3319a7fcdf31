defmodule Brain.Roster.Table do
  @moduledoc """
  The rows of a roster, and the sums kept with every change of them.

  | table | key | value |
  |---|---|---|
  | entries | `{tenant, room, user, session, part}` | seq, meta, joined, last active, hash |
  | rooms | `{tenant, room}` | users, sessions, digest, bytes: of what is visible |
  | parts | `{part, tenant, room}` | entries |
  | versions | `{part, tenant}` | seq, entries, digest, share of the root |
  | roots | part | xor of the shares |

  The part is in the key of an entry, so that even two Shields that name one session can't
  overwrite each other's entry and spoil the sums.
  """

  import Bitwise

  alias Brain.Roster

  @typep key :: {Roster.room(), Roster.user(), Roster.session()}

  # What a listed session costs beside its user's name and its meta.
  @session_bytes 40
  @digest_mask (1 <<< 59) - 1

  ## Versions

  @spec version(Roster.t(), Roster.part_ix(), Roster.tenant_ix()) ::
          {Roster.seq(), non_neg_integer, Roster.digest()}
  def version(r, ix, t) do
    case :ets.lookup(r.versions, {ix, t}) do
      [{_, seq, count, digest, _}] -> {seq, count, digest}
      [] -> {0, 0, 0}
    end
  end

  @spec seq(Roster.t(), Roster.part_ix(), Roster.tenant_ix()) :: {:ok, Roster.seq()} | :error
  def seq(r, ix, t) do
    case :ets.lookup(r.versions, {ix, t}) do
      [{_, seq, _, _, _}] -> {:ok, seq}
      [] -> :error
    end
  end

  @spec versions(Roster.t(), Roster.part_ix()) ::
          [{Roster.tenant_ix(), Roster.seq(), non_neg_integer, Roster.digest()}]
  def versions(r, ix) do
    :ets.select(r.versions, [
      {{{ix, :"$1"}, :"$2", :"$3", :"$4", :_}, [], [{{:"$1", :"$2", :"$3", :"$4"}}]}
    ])
  end

  @spec ensure_version(Roster.t(), Roster.part_ix(), Roster.tenant_ix()) :: :ok
  def ensure_version(r, ix, t) do
    :ets.insert_new(r.versions, {{ix, t}, 0, 0, 0, 0})
    :ok
  end

  @spec set_version(Roster.t(), Roster.part_ix(), Roster.tenant_ix(), Roster.seq()) :: :ok
  def set_version(r, ix, t, seq), do: advance(r, ix, t, seq, 0, 0)

  @spec delete_version(Roster.t(), Roster.part_ix(), Roster.tenant_ix()) :: :ok
  def delete_version(r, ix, t) do
    set_version(r, ix, t, 0)
    :ets.delete(r.versions, {ix, t})
    :ok
  end

  @spec root(Roster.t(), Roster.part_ix()) :: Roster.digest()
  def root(r, ix) do
    case :ets.lookup(r.roots, ix) do
      [{_, root}] -> root
      [] -> 0
    end
  end

  defp advance(r, ix, t, seq, more, xor) do
    {old, count, digest, share} =
      case :ets.lookup(r.versions, {ix, t}) do
        [{_, seq, count, digest, share}] -> {seq, count, digest, share}
        [] -> {0, 0, 0, 0}
      end

    seq = if seq == :same, do: old, else: seq
    count = count + more
    digest = bxor(digest, xor)
    new = if count == 0, do: 0, else: share(Map.fetch!(r.accounts, t), seq, digest)
    :ets.insert(r.versions, {{ix, t}, seq, count, digest, new})
    if new != share, do: :ets.insert(r.roots, {ix, root(r, ix) |> bxor(share) |> bxor(new)})
    :ok
  end

  # `arqon_proto::presence::tenant_hash`, the one digest that both languages compute.
  @doc false
  @spec share(Roster.account(), Roster.seq(), Roster.digest()) :: Roster.digest()
  def share(account, seq, digest) do
    <<first::little-64, _::binary>> =
      :crypto.hash(:sha256, [<<seq::little-64, digest::little-64>>, account])

    band(first, @digest_mask)
  end

  ## Changes

  @spec apply_changes(
          Roster.t(),
          Roster.part_ix(),
          Roster.tenant_ix(),
          [Roster.change()],
          Roster.seq()
        ) :: Roster.facts()
  def apply_changes(r, ix, t, changes, last) do
    visible? = is_map_key(r.visible, ix)

    {facts, more, xor} =
      Enum.reduce(changes, {[], 0, 0}, fn change, acc ->
        case change do
          {:put, entry} -> put(r, ix, t, visible?, entry, acc)
          {:gone, room, user, session} -> remove(r, ix, t, visible?, {room, user, session}, acc)
        end
      end)

    advance(r, ix, t, last, more, xor)
    Enum.reverse(facts)
  end

  defp put(r, ix, t, visible?, entry, {facts, more, xor}) do
    {room, user, session, seq, meta, joined, active, hash} = entry
    key = {t, room, user, session, ix}
    meta = compact(meta)

    case :ets.lookup(r.entries, key) do
      [] ->
        present? = visible? and present?(r, t, room, user)
        :ets.insert(r.entries, {key, seq, meta, joined, active, hash})
        :ets.update_counter(r.parts, {ix, t, room}, 1, {{ix, t, room}, 0})
        users = if present?, do: 0, else: 1

        facts =
          seen(r, visible?, t, room, user, present?, facts, users, 1, hash, cost(user, meta))

        {facts, more + 1, bxor(xor, hash)}

      [{_, _, old_meta, _, old_active, old_hash}] ->
        :ets.insert(r.entries, {key, seq, meta, joined, max(active, old_active), hash})
        change = bxor(hash, old_hash)
        bytes = byte_size(meta) - byte_size(old_meta)
        facts = seen(r, visible?, t, room, user, true, facts, 0, 0, change, bytes)
        {facts, more, bxor(xor, change)}
    end
  end

  defp remove(r, ix, t, visible?, {room, user, session}, {facts, more, xor} = acc) do
    case :ets.take(r.entries, {t, room, user, session, ix}) do
      [] ->
        # A session that never was: a Shield may tell a leave twice, it only takes a number.
        acc

      [{_, _, meta, _, _, hash}] ->
        if :ets.update_counter(r.parts, {ix, t, room}, -1) == 0 do
          :ets.delete(r.parts, {ix, t, room})
        end

        users = if visible? and not present?(r, t, room, user), do: -1, else: 0
        bytes = -cost(user, meta)
        facts = seen(r, visible?, t, room, user, true, facts, users, -1, hash, bytes)
        {facts, more - 1, bxor(xor, hash)}
    end
  end

  defp seen(_, false, _, _, _, _, facts, _, _, _, _), do: facts

  defp seen(r, true, t, room, user, present?, facts, users, sessions, xor, bytes) do
    [{room, add(r, t, room, users, sessions, xor, bytes), user, present?} | facts]
  end

  # Returns the digest before.
  defp add(r, t, room, users, sessions, xor, bytes) do
    {u, s, d, b} = totals(r, t, room)

    if s + sessions == 0 do
      :ets.delete(r.rooms, {t, room})
    else
      :ets.insert(r.rooms, {{t, room}, u + users, s + sessions, bxor(d, xor), b + bytes})
    end

    d
  end

  defp cost(user, meta), do: byte_size(user) + byte_size(meta) + @session_bytes

  # A meta decoded from a large frame may be a window on it, and would keep all of it.
  defp compact(meta) do
    if byte_size(meta) > 64 and :binary.referenced_byte_size(meta) > byte_size(meta) do
      :binary.copy(meta)
    else
      meta
    end
  end

  # The sessions of a user are neighbours, so this is one step unless parts are hidden.
  defp present?(r, t, room, user), do: visible_after?(r, t, room, user, {t, room, user, "", 0})

  defp visible_after?(r, t, room, user, key) do
    case :ets.next(r.entries, key) do
      {^t, ^room, ^user, _, ix} when is_map_key(r.visible, ix) -> true
      {^t, ^room, ^user, _, _} = next -> visible_after?(r, t, room, user, next)
      _ -> false
    end
  end

  @spec active(
          Roster.t(),
          Roster.part_ix(),
          Roster.tenant_ix(),
          [{Roster.room(), Roster.user(), Roster.session(), integer}]
        ) :: :ok
  def active(r, ix, t, marks) do
    Enum.each(marks, fn {room, user, session, at} ->
      :ets.update_element(r.entries, {t, room, user, session, ix}, {5, at})
    end)
  end

  ## Ranges

  @doc "Makes a part equal to `entries` in the range of keys after `from` up to `to`."
  @spec replace_range(
          Roster.t(),
          Roster.part_ix(),
          Roster.tenant_ix(),
          key | :start,
          key | :end,
          [Roster.entry()]
        ) :: Roster.facts()
  def replace_range(r, ix, t, from, to, entries) do
    visible? = is_map_key(r.visible, ix)
    held = held(r, ix, t, from, to)
    {facts, more, xor} = merge(r, ix, t, visible?, held, entries, {[], 0, 0})
    advance(r, ix, t, :same, more, xor)
    Enum.reverse(facts)
  end

  # Puts come before removals at the same place: a user whose session was replaced by another in
  # the same page is present throughout, whatever the order of the two ids.
  defp merge(r, ix, t, visible?, held, entries, acc) do
    told =
      MapSet.new(entries, fn {room, user, session, _, _, _, _, _} -> {room, user, session} end)

    acc = Enum.reduce(entries, acc, &put_if_other(r, ix, t, visible?, &1, &2))

    held
    |> Enum.reject(&MapSet.member?(told, &1))
    |> Enum.reduce(acc, &remove(r, ix, t, visible?, &1, &2))
  end

  defp put_if_other(r, ix, t, visible?, entry, acc) do
    {room, user, session, seq, _, _, active, hash} = entry

    case :ets.lookup(r.entries, {t, room, user, session, ix}) do
      [{key, ^seq, _, _, old_active, ^hash}] ->
        if active > old_active, do: :ets.update_element(r.entries, key, {5, active})
        acc

      _ ->
        put(r, ix, t, visible?, entry, acc)
    end
  end

  # Only rooms that the part has entries in are looked at.
  defp held(r, ix, t, from, to) do
    first = if from == :start, do: "", else: elem(from, 0)
    rooms = rooms_from(r, ix, t, first, to)

    Enum.flat_map(rooms, fn room ->
      start =
        case from do
          {^room, user, session} -> {t, room, user, session, ix}
          _ -> {t, room, "", "", 0}
        end

      walk(r, ix, t, room, to, start, [])
    end)
  end

  defp rooms_from(r, ix, t, first, to) do
    here = if :ets.member(r.parts, {ix, t, first}), do: [first], else: []
    here ++ rooms_after(r, ix, t, first, to, [])
  end

  defp rooms_after(r, ix, t, room, to, acc) do
    case :ets.next(r.parts, {ix, t, room}) do
      {^ix, ^t, next} when to == :end or next <= elem(to, 0) ->
        rooms_after(r, ix, t, next, to, [next | acc])

      _ ->
        Enum.reverse(acc)
    end
  end

  defp walk(r, ix, t, room, to, key, acc) do
    case :ets.next(r.entries, key) do
      {^t, ^room, user, session, part} = next
      when to == :end or {room, user, session} <= to ->
        acc = if part == ix, do: [{room, user, session} | acc], else: acc
        walk(r, ix, t, room, to, next, acc)

      _ ->
        Enum.reverse(acc)
    end
  end

  ## Whole parts

  @doc "Adds a part's entries to the view. The part must not be visible yet."
  @spec show_part(Roster.t(), Roster.part_ix()) :: Roster.facts_by_account()
  def show_part(r, ix), do: flip(r, ix, 1)

  @doc "Takes a part's entries out of the view. The part must not be visible any more."
  @spec hide_part(Roster.t(), Roster.part_ix()) :: Roster.facts_by_account()
  def hide_part(r, ix), do: flip(r, ix, -1)

  # Either way the part itself is not in `visible`, so `present?` tells of the others.
  defp flip(r, ix, sign) do
    r.parts
    |> :ets.select([{{{ix, :"$1", :"$2"}, :_}, [], [{{:"$1", :"$2"}}]}])
    |> Enum.chunk_by(&elem(&1, 0))
    |> Enum.map(fn [{t, _} | _] = rooms ->
      {Map.fetch!(r.accounts, t), Enum.flat_map(rooms, &flip_room(r, ix, &1, sign))}
    end)
  end

  defp flip_room(r, ix, {t, room}, sign) do
    rows =
      :ets.select(r.entries, [
        {{{t, room, :"$1", :_, ix}, :_, :"$2", :_, :_, :"$3"}, [], [{{:"$1", :"$2", :"$3"}}]}
      ])

    {facts, users, xor, bytes} =
      rows
      |> Enum.chunk_by(&elem(&1, 0))
      |> Enum.reduce({[], 0, 0, 0}, fn [{user, _, _} | _] = mine, {facts, users, xor, bytes} ->
        others? = present?(r, t, room, user)
        {xor, bytes} = Enum.reduce(mine, {xor, bytes}, &sum/2)
        {[{user, sign < 0 or others?} | facts], users + if(others?, do: 0, else: 1), xor, bytes}
      end)

    before = add(r, t, room, sign * users, sign * length(rows), xor, sign * bytes)
    Enum.map(facts, fn {user, present?} -> {room, before, user, present?} end)
  end

  defp sum({user, meta, hash}, {xor, bytes}), do: {bxor(xor, hash), bytes + cost(user, meta)}

  @doc "Deletes a part. It must have been hidden before."
  @spec delete_part(Roster.t(), Roster.part_ix()) :: :ok
  def delete_part(r, ix) do
    for {t, room} <- :ets.select(r.parts, [{{{ix, :"$1", :"$2"}, :_}, [], [{{:"$1", :"$2"}}]}]) do
      :ets.match_delete(r.entries, {{t, room, :_, :_, ix}, :_, :_, :_, :_, :_})
    end

    :ets.match_delete(r.parts, {{ix, :_, :_}, :_})
    :ets.match_delete(r.versions, {{ix, :_}, :_, :_, :_, :_})
    :ets.delete(r.roots, ix)
    :ok
  end

  ## View

  @spec totals(Roster.t(), Roster.tenant_ix(), Roster.room()) :: Roster.totals()
  def totals(r, t, room) do
    case :ets.lookup(r.rooms, {t, room}) do
      [{_, users, sessions, digest, bytes}] -> {users, sessions, digest, bytes}
      [] -> {0, 0, 0, 0}
    end
  end

  @spec members(Roster.t(), Roster.tenant_ix(), Roster.room(), Roster.user() | :_, pos_integer) ::
          [Roster.member()]
  def members(r, t, room, user, limit) do
    {head, name} = if user == :_, do: {:"$1", :"$1"}, else: {user, {:const, user}}

    r.entries
    |> :ets.select([
      {{{t, room, head, :"$2", :"$3"}, :_, :"$4", :"$5", :"$6", :_}, [],
       [{{name, :"$2", :"$3", :"$4", :"$5", :"$6"}}]}
    ])
    |> Enum.filter(fn {_, _, ix, _, _, _} -> is_map_key(r.visible, ix) end)
    |> Enum.chunk_by(&elem(&1, 0))
    |> Enum.map(fn [{user, _, _, _, _, _} | _] = rows ->
      listed =
        for {_, session, _, meta, joined, active} <- Enum.take(rows, limit) do
          {session, meta, joined, active}
        end

      {user, length(rows), listed}
    end)
  end

  @spec digests(Roster.t(), Roster.tenant_ix(), Roster.room(), pos_integer) ::
          {[{Roster.room(), Roster.digest(), non_neg_integer}], Roster.room()}
  def digests(r, t, from, limit), do: digests(r, t, from, limit, [])

  defp digests(r, t, from, limit, acc) do
    case :ets.next(r.rooms, {t, from}) do
      {^t, _} when limit == 0 ->
        {Enum.reverse(acc), from}

      {^t, room} = key ->
        [{_, users, _, digest, _}] = :ets.lookup(r.rooms, key)
        digests(r, t, room, limit - 1, [{room, digest, users} | acc])

      _ ->
        {Enum.reverse(acc), ""}
    end
  end
end
