defmodule Brain.Roster do
  @moduledoc """
  Who is in which room: the state-based CRDT of one shard, over ETS, without a process.

  Each Shield incarnation is the only writer of its part of a tenant. A part has a version, and a
  change applies only to the version before it, so the versions of a part are totally ordered and
  the join of two parts is the newer one. What is seen of a room is the union of the visible parts.

  No operation on a change looks at more than the entries of one user in one room, and hiding or
  deleting an incarnation walks only the rooms it has entries in.

  The tables belong to the process that called `new/0`. Functions return the roster, since small
  things (who is visible, what is interned, running snapshots) are kept outside the tables, and
  *facts*: what may have changed in the view, from which `Brain.Rounds` makes events.
  """

  alias Brain.Roster
  alias Brain.Roster.{Snapshot, Table}

  @type account :: binary
  @type shield :: binary
  @type epoch :: non_neg_integer
  @type seq :: non_neg_integer
  @type digest :: non_neg_integer
  @type room :: binary
  @type user :: binary
  @type session :: binary
  @type tenant_ix :: pos_integer
  @type part_ix :: pos_integer

  @type entry ::
          {room, user, session, seq, meta :: binary, joined_at_ms :: integer,
           last_active_ms :: integer, hash :: digest}
  @type change :: {:put, entry} | {:gone, room, user, session}

  @typedoc "A room, its digest before, a user of it, and whether that user was present before."
  @type fact :: {room, digest, user, boolean}
  @type facts :: [fact]
  @type facts_by_account :: [{account, facts}]

  @typedoc "What the view holds of a room: users, sessions, digest, bytes of a full listing."
  @type totals :: {non_neg_integer, non_neg_integer, digest, non_neg_integer}

  @type t :: %Roster{
          entries: :ets.tid(),
          rooms: :ets.tid(),
          parts: :ets.tid(),
          versions: :ets.tid(),
          roots: :ets.tid(),
          tenants: %{account => tenant_ix},
          accounts: %{tenant_ix => account},
          incarnations: %{{shield, epoch} => part_ix},
          visible: %{part_ix => epoch},
          snapshots: %{{part_ix, tenant_ix} => Snapshot.t()},
          torn: %{{part_ix, tenant_ix} => true},
          next: pos_integer
        }

  @enforce_keys [:entries, :rooms, :parts, :versions, :roots]
  defstruct [
    :entries,
    :rooms,
    :parts,
    :versions,
    :roots,
    tenants: %{},
    accounts: %{},
    incarnations: %{},
    visible: %{},
    snapshots: %{},
    torn: %{},
    next: 1
  ]

  @doc "An empty roster, owned by the calling process."
  @spec new() :: t
  def new do
    # Ordered by {tenant, room, user, session, part}: the users of a room are neighbours, which
    # makes listing a range read and "is this user still here" one step.
    %Roster{
      entries: :ets.new(:entries, [:ordered_set, :private]),
      rooms: :ets.new(:rooms, [:ordered_set, :private]),
      parts: :ets.new(:parts, [:ordered_set, :private]),
      versions: :ets.new(:versions, [:ordered_set, :private]),
      roots: :ets.new(:roots, [:set, :private])
    }
  end

  @doc "Frees the tables."
  @spec close(t) :: :ok
  def close(%Roster{} = r) do
    Enum.each(tables(r), &:ets.delete/1)
  end

  ## Incarnations

  @doc "Whether this incarnation is known, and seen."
  @spec status(t, shield, epoch) :: :visible | :hidden | :unknown
  def status(r, shield, epoch) do
    case r.incarnations do
      %{{^shield, ^epoch} => ix} when is_map_key(r.visible, ix) -> :visible
      %{{^shield, ^epoch} => _} -> :hidden
      _ -> :unknown
    end
  end

  @doc "Puts an incarnation in force, or shows a hidden one again."
  @spec show(t, shield, epoch) :: {t, facts_by_account, [account]}
  def show(r, shield, epoch) do
    case status(r, shield, epoch) do
      :visible ->
        {r, [], []}

      :unknown ->
        ix = r.next
        incarnations = Map.put(r.incarnations, {shield, epoch}, ix)
        visible = Map.put(r.visible, ix, epoch)
        {%{r | next: ix + 1, incarnations: incarnations, visible: visible}, [], []}

      :hidden ->
        ix = Map.fetch!(r.incarnations, {shield, epoch})
        facts = Table.show_part(r, ix)
        {%{r | visible: Map.put(r.visible, ix, epoch)}, facts, accounts_of(r, ix)}
    end
  end

  @doc """
  Takes an incarnation out of the view; its entries and versions stay, and stay current.

  Its snapshots are given up: nobody will send the rest, and a tenant half applied tells nothing.
  """
  @spec hide(t, shield, epoch) :: {t, facts_by_account, [account]}
  def hide(r, shield, epoch) do
    case status(r, shield, epoch) do
      :visible ->
        ix = Map.fetch!(r.incarnations, {shield, epoch})
        r = give_up(%{r | visible: Map.delete(r.visible, ix)}, fn {part, _} -> part == ix end)
        {r, Table.hide_part(r, ix), accounts_of(r, ix)}

      _ ->
        {r, [], []}
    end
  end

  @doc "Forgets an incarnation. What still comes from it is refused as unknown."
  @spec delete(t, shield, epoch) :: {t, facts_by_account, [account]}
  def delete(r, shield, epoch) do
    {r, facts, _} = hide(r, shield, epoch)

    case Map.pop(r.incarnations, {shield, epoch}) do
      {nil, _} ->
        {r, facts, []}

      {ix, incarnations} ->
        accounts = accounts_of(r, ix)
        Table.delete_part(r, ix)
        r = give_up(%{r | incarnations: incarnations}, fn {part, _} -> part == ix end)
        r = %{r | torn: Map.reject(r.torn, fn {{part, _}, _} -> part == ix end)}
        r = Enum.reduce(accounts, r, &release/2)
        # Of a hidden one too: another Brain may have shown it after this one had hidden it.
        {r, facts, accounts}
    end
  end

  ## Changes

  @type outcome ::
          {:ok, t, facts}
          | {:buffered, t}
          | :duplicate
          | :gap
          | :unknown
          | :malformed
          | {:overflow, t}

  @doc """
  Applies a batch of changes, numbered `first`, `first + 1`, ….

  Already known: `:duplicate`. An overlap is applied from its first new change. Beyond the next
  version: `:gap`, or kept while a snapshot is being fetched; if too many are kept the snapshot is
  given up (`:overflow`) and must begin anew.
  """
  @spec changes(t, shield, epoch, account, pos_integer, [change]) :: outcome
  def changes(r, shield, epoch, account, first, changes) do
    case r.incarnations do
      %{{^shield, ^epoch} => ix} when first > 0 ->
        {r, t} = intern(r, account)
        part_changes(r, ix, t, first, changes)

      %{{^shield, ^epoch} => _} ->
        :malformed

      _ ->
        :unknown
    end
  end

  defp part_changes(r, ix, t, first, changes) do
    last = first + length(changes) - 1
    {at, _, _} = Table.version(r, ix, t)
    snapshot = Map.get(r.snapshots, {ix, t})

    cond do
      last <= at ->
        :duplicate

      snapshot != nil and
          (Snapshot.begun?(snapshot) or first > at + 1 or is_map_key(r.torn, {ix, t})) ->
        buffer(r, {ix, t}, snapshot, first, changes)

      first > at + 1 or is_map_key(r.torn, {ix, t}) ->
        :gap

      true ->
        new = Enum.drop(changes, at + 1 - first)

        if numbered?(new, at + 1) do
          {:ok, r, Table.apply_changes(r, ix, t, new, last)}
        else
          :malformed
        end
    end
  end

  defp buffer(r, key, snapshot, first, changes) do
    case Snapshot.buffer(snapshot, first, changes) do
      {:ok, snapshot} -> {:buffered, %{r | snapshots: Map.put(r.snapshots, key, snapshot)}}
      :overflow -> {:overflow, give_up(r, &(&1 == key))}
    end
  end

  # Pages that were applied leave a part between two versions. Until a whole snapshot mends it, no
  # change may set a version that it does not have.
  defp give_up(%{snapshots: none} = r, _) when none == %{}, do: r

  defp give_up(r, which) do
    {dropped, kept} = Enum.split_with(r.snapshots, fn {key, _} -> which.(key) end)

    torn =
      for {key, snapshot} <- dropped, Snapshot.begun?(snapshot), into: r.torn, do: {key, true}

    %{r | snapshots: Map.new(kept), torn: torn}
  end

  # An entry carries the number of its change: one that does not is not of the batch it came in.
  defp numbered?([{:put, {_, _, _, seq, _, _, _, _}} | rest], seq), do: numbered?(rest, seq + 1)
  defp numbered?([{:gone, _, _, _} | rest], seq), do: numbered?(rest, seq + 1)
  defp numbered?([], _), do: true
  defp numbered?(_, _), do: false

  @doc "Marks sessions as active: outside version and digest, and no fact for anyone."
  @spec active(t, shield, epoch, account, [{room, user, session, integer}]) :: :ok | :unknown
  def active(r, shield, epoch, account, marks) do
    case {r.incarnations, r.tenants} do
      {%{{^shield, ^epoch} => ix}, %{^account => t}} -> Table.active(r, ix, t, marks)
      {%{{^shield, ^epoch} => _}, _} -> :ok
      _ -> :unknown
    end
  end

  ## Snapshots

  @doc """
  Expects the pages of snapshot `request`. A snapshot already under way is replaced by it.

  `:back` lets the snapshot set the version back, which only a Shield that twice told a lower
  version than ours can ask for.
  """
  @spec begin_snapshot(t, shield, epoch, account, request :: term, :forward | :back) ::
          {:ok, t} | :unknown
  def begin_snapshot(r, shield, epoch, account, request, direction) do
    case r.incarnations do
      %{{^shield, ^epoch} => ix} ->
        {r, t} = intern(r, account)
        {at, _, _} = Table.version(r, ix, t)
        Table.ensure_version(r, ix, t)
        r = give_up(r, &(&1 == {ix, t}))
        snapshot = Snapshot.new(request, if(direction == :back, do: :back, else: at))
        {:ok, %{r | snapshots: Map.put(r.snapshots, {ix, t}, snapshot)}}

      _ ->
        :unknown
    end
  end

  @doc """
  Gives a snapshot up. What its pages brought stays, the version was not touched, and changes are
  gaps until another snapshot is whole.
  """
  @spec abort_snapshot(t, shield, epoch, account) :: t
  def abort_snapshot(r, shield, epoch, account) do
    with %{{^shield, ^epoch} => ix} <- r.incarnations, %{^account => t} <- r.tenants do
      give_up(r, &(&1 == {ix, t}))
    else
      _ -> r
    end
  end

  @doc "Gives all snapshots up."
  @spec abort_snapshots(t) :: t
  def abort_snapshots(r), do: give_up(r, fn _ -> true end)

  @type page_outcome ::
          {:more | :done | :gap, t, facts} | {:broken, t} | :unexpected | :unknown

  @doc """
  Applies page `number` (from 0) of snapshot `request` at version `seq`.

  It replaces the range of keys after the page before up to its own last key, the last page up to
  the end. `:done`: the version is set and what was kept is applied. `:gap`: likewise, but what was
  kept does not join. `:broken`: a page is missing, out of order or older than what is held, and
  the snapshot was given up. `:unexpected`: no such snapshot is under way.
  """
  @spec page(t, shield, epoch, account, term, non_neg_integer, seq, boolean, [entry]) ::
          page_outcome
  def page(r, shield, epoch, account, request, number, seq, last?, entries) do
    with %{{^shield, ^epoch} => ix} <- r.incarnations,
         %{^account => t} <- r.tenants,
         %{{^ix, ^t} => %{request: ^request} = snapshot} <- r.snapshots do
      {at, _, _} = Table.version(r, ix, t)

      case Snapshot.accept(snapshot, number, seq, at, last?, entries) do
        :broken ->
          {:broken, give_up(r, &(&1 == {ix, t}))}

        {:ok, snapshot, from, to} ->
          facts = Table.replace_range(r, ix, t, from, to, entries)

          if last? do
            r = %{
              r
              | snapshots: Map.delete(r.snapshots, {ix, t}),
                torn: Map.delete(r.torn, {ix, t})
            }

            finish(r, ix, t, snapshot, facts)
          else
            {:more, %{r | snapshots: Map.put(r.snapshots, {ix, t}, snapshot)}, facts}
          end
      end
    else
      _ -> if status(r, shield, epoch) == :unknown, do: :unknown, else: :unexpected
    end
  end

  defp finish(r, ix, t, snapshot, facts) do
    Table.set_version(r, ix, t, snapshot.seq)

    {outcome, more} =
      snapshot
      |> Snapshot.buffered()
      |> Enum.reduce({:done, []}, fn {first, changes}, {outcome, acc} ->
        case part_changes(r, ix, t, first, changes) do
          {:ok, _, facts} -> {outcome, [facts | acc]}
          :duplicate -> {outcome, acc}
          _ -> {:gap, acc}
        end
      end)

    {outcome, r, Enum.concat([facts | Enum.reverse(more)])}
  end

  @doc "Whether some snapshot of the tenant has replaced a part of its range only."
  @spec half_applied?(t, account) :: boolean
  def half_applied?(%{snapshots: none}, _) when none == %{}, do: false

  def half_applied?(r, account) do
    case r.tenants do
      %{^account => t} ->
        Enum.any?(r.snapshots, fn {{_, of}, s} -> of == t and Snapshot.begun?(s) end)

      _ ->
        false
    end
  end

  @doc "Drops what an incarnation has in a tenant, its version too."
  @spec drop(t, shield, epoch, account) :: {t, facts}
  def drop(r, shield, epoch, account) do
    with %{{^shield, ^epoch} => ix} <- r.incarnations, %{^account => t} <- r.tenants do
      facts = Table.replace_range(r, ix, t, :start, :end, [])
      Table.delete_version(r, ix, t)
      key = {ix, t}
      r = %{r | snapshots: Map.delete(r.snapshots, key), torn: Map.delete(r.torn, key)}
      {release(account, r), facts}
    else
      _ -> {r, []}
    end
  end

  ## Versions

  @doc "Version, count of entries and digest of an incarnation's part of a tenant."
  @spec version(t, shield, epoch, account) :: {seq, non_neg_integer, digest}
  def version(r, shield, epoch, account) do
    with %{{^shield, ^epoch} => ix} <- r.incarnations, %{^account => t} <- r.tenants do
      Table.version(r, ix, t)
    else
      _ -> {0, 0, 0}
    end
  end

  @doc "This roster's share of an incarnation's root digest."
  @spec root(t, shield, epoch) :: digest
  def root(r, shield, epoch) do
    case r.incarnations do
      %{{^shield, ^epoch} => ix} -> Table.root(r, ix)
      _ -> 0
    end
  end

  @doc "Whether a snapshot of this part is being fetched."
  @spec fetching?(t, shield, epoch, account) :: boolean
  def fetching?(r, shield, epoch, account) do
    with %{{^shield, ^epoch} => ix} <- r.incarnations, %{^account => t} <- r.tenants do
      is_map_key(r.snapshots, {ix, t})
    else
      _ -> false
    end
  end

  @doc "All tenants an incarnation has entries in, with version, count and digest."
  @spec held(t, shield, epoch) :: [{account, seq, non_neg_integer, digest}]
  def held(r, shield, epoch) do
    case r.incarnations do
      %{{^shield, ^epoch} => ix} ->
        for {t, seq, count, digest} <- Table.versions(r, ix), count > 0 do
          {Map.fetch!(r.accounts, t), seq, count, digest}
        end

      _ ->
        []
    end
  end

  @doc "The version applied of each visible incarnation that has one in the tenant."
  @spec coverage(t, account) :: [{epoch, seq}]
  def coverage(r, account) do
    case r.tenants do
      %{^account => t} ->
        for {ix, epoch} <- r.visible, {:ok, seq} <- [Table.seq(r, ix, t)], do: {epoch, seq}

      _ ->
        []
    end
  end

  @doc "The incarnations known, with whether each is seen."
  @spec incarnations(t) :: [{shield, epoch, boolean}]
  def incarnations(r) do
    for {{shield, epoch}, ix} <- r.incarnations, do: {shield, epoch, is_map_key(r.visible, ix)}
  end

  ## View

  @doc "What the view holds of a room."
  @spec totals(t, account, room) :: totals
  def totals(r, account, room) do
    case r.tenants do
      %{^account => t} -> Table.totals(r, t, room)
      _ -> {0, 0, 0, 0}
    end
  end

  @typedoc "A user, how many sessions, and as many of them as may be listed."
  @type member ::
          {user, pos_integer, [{session, meta :: binary, integer, integer}]}

  @doc "The members of a room, in the order of their names, each with at most `limit` sessions."
  @spec members(t, account, room, pos_integer) :: [member]
  def members(r, account, room, limit) do
    case r.tenants do
      %{^account => t} -> Table.members(r, t, room, :_, limit)
      _ -> []
    end
  end

  @doc "One user of a room, if present."
  @spec member(t, account, room, user, pos_integer) :: member | nil
  def member(r, account, room, user, limit) do
    with %{^account => t} <- r.tenants, [member] <- Table.members(r, t, room, user, limit) do
      member
    else
      _ -> nil
    end
  end

  @doc """
  Digests of at most `limit` rooms named after `from`, in the order of their names.

  The second element is the last name of the range, empty if there are no more.
  """
  @spec digests(t, account, room, pos_integer) ::
          {[{room, digest, users :: non_neg_integer}], room}
  def digests(r, account, from, limit) do
    case r.tenants do
      %{^account => t} -> Table.digests(r, t, from, limit)
      _ -> {[], ""}
    end
  end

  @doc "Accounts with a version of some incarnation."
  @spec accounts(t) :: [account]
  def accounts(r), do: Map.keys(r.tenants)

  @doc "Counts for metrics: sessions held, rooms seen, tenants."
  @spec stats(t) :: %{members: non_neg_integer, rooms: non_neg_integer, tenants: non_neg_integer}
  def stats(r) do
    %{
      members: :ets.info(r.entries, :size),
      rooms: :ets.info(r.rooms, :size),
      tenants: map_size(r.tenants)
    }
  end

  @doc "Bytes of the tables."
  @spec memory(t) :: non_neg_integer
  def memory(r) do
    words = for table <- tables(r), do: :ets.info(table, :memory)
    Enum.sum(words) * :erlang.system_info(:wordsize)
  end

  defp tables(r), do: [r.entries, r.rooms, r.parts, r.versions, r.roots]

  ## Interning

  # Keys hold small integers in place of account keys: 56 bytes less in each of them.
  defp intern(r, account) do
    case r.tenants do
      %{^account => t} ->
        {r, t}

      _ ->
        t = r.next
        account = :binary.copy(account)

        {%{
           r
           | next: t + 1,
             tenants: Map.put(r.tenants, account, t),
             accounts: Map.put(r.accounts, t, account)
         }, t}
    end
  end

  # A tenant of which no incarnation has a version is forgotten, or every tenant ever seen would stay.
  defp release(account, r) do
    t = Map.fetch!(r.tenants, account)

    if Enum.any?(r.incarnations, fn {_, ix} -> Table.seq(r, ix, t) != :error end) do
      r
    else
      %{r | tenants: Map.delete(r.tenants, account), accounts: Map.delete(r.accounts, t)}
    end
  end

  defp accounts_of(r, ix) do
    for {t, _, _, _} <- Table.versions(r, ix), do: Map.fetch!(r.accounts, t)
  end
end
